"""Where things lie on this machine."""

SOCKET = "/run/ali-enclaves/allocator.sock"
"""The socket of the allocator."""

RUN = "/run/ali-enclaves/evm"
"""Below it every enclave has a directory of its user's; a mount of its own, 1770 root de, there with the allocator."""

RUN_UNIT = r"run-ali\x2denclaves-evm.mount"
"""The unit of that mount."""

SETTINGS = "/etc/ali-enclaves/enclave-cli.conf"
"""Settings of this machine; optional."""

VHOST_VSOCK = "/dev/vhost-vsock"
KVM = "/dev/kvm"

MONITOR = "monitor.sock"
"""QEMU's monitor (QMP), in the enclave's directory."""

CONSOLE = "console.log"
"""What the serial console said, in the directory of an enclave in debug mode."""
