// Tells how many CPUs are free for enclaves, now and after each change. Needs the standard library only.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
)

type reply struct {
	Error      string
	Parameters struct {
		Pool struct {
			State string
			CPUs  []int
			Nodes []struct {
				Cores []struct {
					CPUs []int
					Use  string
				}
			}
		}
	}
}

func main() {
	path := "/run/ali-enclaves/allocator.sock"
	if len(os.Args) > 1 {
		path = os.Args[1]
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprint(conn, `{"method": "io.ali-enclaves.Allocator.Watch", "more": true}`, "\x00")
	for replies := bufio.NewReader(conn); ; {
		frame, err := replies.ReadBytes(0)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			log.Fatal(err)
		}
		var told reply
		if err := json.Unmarshal(frame[:len(frame)-1], &told); err != nil {
			log.Fatal(err)
		}
		if told.Error != "" {
			log.Fatal(told.Error)
		}
		pool, free := told.Parameters.Pool, 0
		for _, node := range pool.Nodes {
			for _, core := range node.Cores {
				if core.Use == "pool" || core.Use == "lendable" {
					free += len(core.CPUs)
				}
			}
		}
		fmt.Printf("%s: %d of %d CPUs free\n", pool.State, free, len(pool.CPUs))
	}
}
