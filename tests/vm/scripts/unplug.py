"""Unplugs a CPU of this very machine, over QEMU's monitor, which a machine with hotplug has as a port.

Its argument is the CPU's core-id (one thread per core, one node). The kernel is only asked to let it go.
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
        if "error" in message:
            sys.exit(f"{command}: {message['error']['desc']}")
        if "return" in message:
            return message["return"]


core = int(sys.argv[1])
with open("/dev/virtio-ports/monitor", "r+b", buffering=0) as port:
    execute(port, "qmp_capabilities")
    [cpu] = [cpu for cpu in execute(port, "query-hotpluggable-cpus") if cpu["props"]["core-id"] == core]
    execute(port, "device_del", id=cpu["qom-path"])
