"""What the guest's machine looks like: kernel, NUMA nodes, cores, threads and memory, as QEMU is told."""

from dataclasses import dataclass
from pathlib import Path

from image import Image

KERNELS = ("6.1", "6.12")

QUIET = (
    "root=/dev/nvme0n1 rw console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=on "
    "tsc=reliable nowatchdog rcupdate.rcu_cpu_stall_suppress=1 systemd.show_status=false"
)


@dataclass(frozen=True)
class Machine:
    """A machine of equal nodes; CPUs are numbered node by node, core by core, thread by thread."""

    kernel: str = "6.12"
    nodes: int = 2
    cores: int = 2
    threads: int = 2
    memory_mib: int = 4096
    append: str = ""

    def __str__(self) -> str:
        shape = f"{self.nodes} nodes × {self.cores} cores × {self.threads} threads"
        return f"kernel {self.kernel}, {shape}, {self.memory_mib} MiB"

    def qemu(self, image: Image, disk: Path, port: int) -> list[str]:
        """Return the command that boots an image's kernel with a disk, and with the agent's port on an open socket."""
        cpus = self.nodes * self.cores * self.threads
        return [
            "qemu-system-x86_64",
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none"),
            # KVM is not tried: where the ring runs, its guests may hang without an error. One thread for all
            # CPUs: with many, QEMU 7.2 loses a race against the kernel's code patching in every fifth boot.
            *("-machine", "q35,hpet=off", "-accel", "tcg,thread=single"),
            # The model shows hyper-threads to the guest, which qemu64, max and EPYC do not.
            *("-cpu", "Skylake-Server,-vmx,+pdpe1gb"),
            *("-m", f"{self.memory_mib}"),
            *("-smp", f"{cpus},sockets={self.nodes},cores={self.cores},threads={self.threads}"),
            *(option for node in range(self.nodes) for option in self._node(node)),
            *("-kernel", str(image.kernel(self.kernel)), "-append", f"{QUIET} {self.append}"),
            *("-drive", f"if=none,id=root,file={disk},format=qcow2,cache=unsafe"),
            *("-device", "nvme,serial=root,drive=root"),
            *("-serial", "stdio"),
            *("-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,fd={port}"),
            *("-device", "virtserialport,chardev=agent,name=agent"),
        ]

    def _node(self, node: int) -> list[str]:
        memory = self.memory_mib // self.nodes
        return [
            *("-object", f"memory-backend-ram,id=memory{node},size={memory}M"),
            *("-numa", f"node,nodeid={node},memdev=memory{node}"),
            *("-numa", f"cpu,node-id={node},socket-id={node}"),
        ]
