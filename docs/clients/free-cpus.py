#!/usr/bin/env python3
"""Tells how many CPUs are free for enclaves, now and after each change. Needs the standard library only."""

import json
import os
import socket
import sys

PATH = sys.argv[1] if len(sys.argv) > 1 else "/run/ali-enclaves/allocator.sock"
CALL = {"method": "io.ali-enclaves.Allocator.Watch", "more": True}

with socket.socket(socket.AF_UNIX) as sock:
    if error := sock.connect_ex(PATH):
        sys.exit(f"{PATH}: {os.strerror(error)}: does ali-enclaves-allocator run?")
    sock.sendall(json.dumps(CALL).encode() + b"\0")
    received = b""
    while data := sock.recv(65536):
        *replies, received = (received + data).split(b"\0")
        for reply in map(json.loads, replies):
            if "error" in reply:
                sys.exit(f"{reply['error']} {reply.get('parameters', {})}")
            pool = reply["parameters"]["pool"]
            cores = [core for node in pool["nodes"] for core in node["cores"]]
            free = [cpu for core in cores if core["use"] in ("pool", "lendable") for cpu in core["cpus"]]
            print(f"{pool['state']}: {len(free)} of {len(pool['cpus'])} CPUs free", flush=True)
