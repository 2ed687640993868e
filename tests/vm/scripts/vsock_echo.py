"""Sends a line to a vsock port and prints the line that comes back. Usage: vsock_echo.py CID PORT LINE"""

import socket
import sys

SECONDS = 120

cid, port, line = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as client:
    client.settimeout(SECONDS)
    client.connect((cid, port))
    client.sendall(line.encode() + b"\n")
    received = b""
    while not received.endswith(b"\n"):
        data = client.recv(4096)
        if not data:
            sys.exit(f"closed after {received!r}")
        received += data
print(received.decode().rstrip("\n"))
