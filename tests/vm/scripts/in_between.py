"""Stands before a Unix socket, at another path, and keeps answers to itself: in_between.py PATH SOCKET [BYTES].

With BYTES, which end a greeting, what clients say is passed on, and what they are answered as far as that; without
them nothing is. Prints a line when it listens, and one for each client.
"""

import socket
import sys
import threading


def carry(source, target, last=b""):
    """Carry bytes from one to the other, to their end, or as far as the last of them; then only read on."""
    seen, passed = b"", 0
    with source, target:
        while data := source.recv(65536):
            seen += data
            end = seen.find(last) if last else -1
            until = len(seen) if end < 0 else end + len(last)
            target.sendall(seen[passed:until])
            passed = until


path, real, *greeting = sys.argv[1:]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
print("listens", flush=True)
kept = []
while True:
    client, _ = listener.accept()
    print("connected", flush=True)
    if greeting:
        server = socket.socket(socket.AF_UNIX)
        server.connect(real)
        threading.Thread(target=carry, args=(client.dup(), server.dup())).start()
        threading.Thread(target=carry, args=(server, client, greeting[0].encode())).start()
    else:
        kept.append(client)
