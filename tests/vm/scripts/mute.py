"""Listens at a path, lets whoever comes connect, and never answers: mute.py PATH. Prints a line for each that came."""

import socket
import sys

listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listens", flush=True)
kept = []
while True:
    kept.append(listener.accept())
    print("connected", flush=True)
