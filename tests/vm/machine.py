"""What the guest's machine looks like: kernel, NUMA nodes, cores, threads and memory, as QEMU is told."""

from dataclasses import dataclass
from pathlib import Path

from image import Image

KERNELS = ("6.1", "6.12")

QUIET = (
    "root=/dev/nvme0n1 rw console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=on no_timer_check "
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
    lopsided: bool = False
    """Whether the last node has no memory, and one node more has memory and no CPU."""
    hotplug: bool = False
    """Whether its CPUs can be unplugged: by what runs in it, which has QEMU's monitor as a port of its own."""

    def __str__(self) -> str:
        shape = f"{self.nodes} nodes × {self.cores} cores × {self.threads} threads"
        more = [self.append, "lopsided" * self.lopsided, "hotplug" * self.hotplug]
        return ", ".join(filter(None, [f"kernel {self.kernel}", shape, f"{self.memory_mib} MiB", *more]))

    def qemu(self, image: Image, disk: Path, port: int) -> list[str]:
        """Return the command that boots an image's kernel with a disk, and with the agent's port on an open socket."""
        cpus = self.nodes * self.cores * self.threads
        return [
            "qemu-system-x86_64",
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none"),
            # KVM is not tried: where the ring runs, its guests may hang without an error. One thread for all
            # CPUs: with many, QEMU 7.2 loses a race against the kernel's code patching in every fifth boot.
            # With one, a CPU cannot be unplugged: the thread would wait for its own end.
            *("-machine", "q35,hpet=off", "-accel", f"tcg,thread={'multi' if self.hotplug else 'single'}"),
            # The model shows hyper-threads to the guest, which qemu64, max and EPYC do not.
            *("-cpu", "Skylake-Server,-vmx,+pdpe1gb"),
            *("-m", f"{self.memory_mib}"),
            *("-smp", f"{cpus},sockets={self.nodes},cores={self.cores},threads={self.threads}"),
            *(option for node in range(self.nodes + self.lopsided) for option in self._node(node)),
            *("-kernel", str(image.kernel(self.kernel)), "-append", f"{QUIET} {self.append}"),
            *("-drive", f"if=none,id=root,file={disk},format=qcow2,cache=unsafe"),
            *("-device", "nvme,serial=root,drive=root"),
            *("-serial", "stdio"),
            *("-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,fd={port}"),
            *("-device", "virtserialport,chardev=agent,name=agent"),
            *(self._monitor(disk.with_name("monitor")) if self.hotplug else []),
        ]

    def _node(self, node: int) -> list[str]:
        size = self.memory_mib // self.nodes
        memory = ["-object", f"memory-backend-ram,id=memory{node},size={size}M"]
        if self.lopsided and node == self.nodes - 1:
            return ["-numa", f"node,nodeid={node}", "-numa", f"cpu,node-id={node},socket-id={node}"]
        cpus = ["-numa", f"cpu,node-id={node},socket-id={node}"] if node < self.nodes else []
        return [*memory, "-numa", f"node,nodeid={node},memdev=memory{node}", *cpus]

    def _monitor(self, path: Path) -> list[str]:
        return [
            *("-chardev", f"socket,id=monitor,path={path},server=on,wait=off", "-mon", "chardev=monitor,mode=control"),
            *("-chardev", f"socket,id=itself,path={path}"),
            *("-device", "virtserialport,chardev=itself,name=monitor"),
        ]
