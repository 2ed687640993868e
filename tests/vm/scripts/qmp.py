"""Unplugs and plugs CPUs of this very machine, over QEMU's monitor, which a machine with hotplug has as a port.

unplug CORE  ask this kernel to let a CPU go, by its core-id (one thread per core, one node)
plug CORE    put it back
"""

import json
import sys


def execute(port, command, **arguments):
    """Run a command of QMP and return its answer; events and the greeting are passed over."""
    port.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
    while True:
        line = b""
        while not line.endswith(b"\n"):
            line += port.read(1)
        message = json.loads(line)
        if "error" in message and command != "qmp_capabilities":  # which only the first of us may call
            sys.exit(f"{command}: {message['error']['desc']}")
        if "return" in message or "error" in message:
            return message.get("return")


verb, core = sys.argv[1], int(sys.argv[2])
with open("/dev/virtio-ports/monitor", "r+b", buffering=0) as port:
    execute(port, "qmp_capabilities")
    [cpu] = [cpu for cpu in execute(port, "query-hotpluggable-cpus") if cpu["props"]["core-id"] == core]
    if verb == "unplug":
        execute(port, "device_del", id=cpu["qom-path"])
    else:
        execute(port, "device_add", driver=cpu["type"], id=f"plugged{core}", **cpu["props"])
