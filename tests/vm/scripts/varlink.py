"""Asks the allocator over its socket, as any program may, with nothing but the standard library.

whole          succeed if nothing of the pool is leased, and every page that it wants is free for leases
pool [PATH]    print what GetPool answers as JSON, or the part of it at a path such as nodes.0.cores
part PATH      print the part of the JSON on standard input at a path
call METHOD JSON  call with parameters and print the reply; exit with 1 if it is an error
clients COUNT  so many clients call GetPool at once; all must be answered within a minute
reloads COUNT [ERROR]  reload so many times in a row, on one connection; all must succeed, or fail with that error
"""

import json
import socket
import sys

SOCKET = "/run/ali-enclaves/allocator.sock"
CALL = json.dumps({"method": "io.ali-enclaves.Allocator.GetPool"}).encode() + b"\0"
RELOAD = json.dumps({"method": "io.ali-enclaves.Allocator.Reload"}).encode() + b"\0"
SECONDS = 60


def connected():
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(SECONDS)
    client.connect(SOCKET)
    return client


def receive(client):
    received = b""
    while not received.endswith(b"\0"):
        data = client.recv(1 << 16)
        if not data:
            sys.exit(f"the service closed the connection after {received!r}")
        received += data
    return json.loads(received[:-1])


def answer(client):
    reply = receive(client)
    if "error" in reply:
        sys.exit(f"the service answered {reply}")
    return reply["parameters"]["pool"]


def pool(path=""):
    with connected() as client:
        client.sendall(CALL)
        show(answer(client), path)


def call(method, parameters):
    message = {"method": f"io.ali-enclaves.Allocator.{method}", "parameters": json.loads(parameters)}
    with connected() as client:
        client.sendall(json.dumps(message).encode() + b"\0")
        reply = client.recv(1 << 16).rstrip(b"\0").decode()
    print(reply)
    sys.exit("error" in json.loads(reply))


def whole():
    with connected() as client:
        client.sendall(CALL)
        nodes = answer(client)["nodes"]
    leased = [core["cpus"] for node in nodes for core in node["cores"] if core["use"] == "leased"]
    short = [pages for node in nodes for pages in node["hugepages"] if pages["asked"] != pages["free"]]
    if leased or short:
        sys.exit(f"not whole: leased are {leased}, pages are {short}")


def part(path):
    show(json.load(sys.stdin), path)


def show(value, path):
    for name in path.split(".") if path else []:
        value = value[int(name)] if isinstance(value, list) else value[name]
    print(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def clients(count):
    every = [connected() for _ in range(int(count))]
    for client in every:
        client.sendall(CALL)
    answers = {json.dumps(answer(client)["cpus"]) for client in every}
    print(f"{len(every)} clients answered: {answers}")


def reloads(count, error=""):
    with connected() as client:
        for _ in range(int(count)):
            client.sendall(RELOAD)
            reply = receive(client)
            if reply.get("error", "").rpartition(".")[2] != error:
                sys.exit(f"the service answered {reply}")


if __name__ == "__main__":
    commands = {"call": call, "whole": whole, "pool": pool, "part": part, "clients": clients, "reloads": reloads}
    commands[sys.argv[1]](*sys.argv[2:])
