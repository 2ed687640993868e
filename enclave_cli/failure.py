"""How a command of the launcher fails: a message for people and an exit status for programs."""

USAGE = 2
IMAGE_REFUSED = 65
NO_SUCH_ENCLAVE = 66
SERVICE_UNAVAILABLE = 69
NOT_STARTED = 70
MACHINE_LACKS = 71
OUTPUT_LOST = 74
POOL_REFUSED = 75
NOT_PERMITTED = 77
FILE_REFUSED = 78
INTERRUPTED = 130

EXIT_STATUS = {
    0: "done",
    USAGE: "the command line is wrong",
    IMAGE_REFUSED: "the image is refused",
    NO_SUCH_ENCLAVE: "there is no such enclave, or more than one, or no console of it",
    SERVICE_UNAVAILABLE: "the service ali-enclaves-allocator does not answer",
    NOT_STARTED: "the enclave did not come up, or did not end",
    MACHINE_LACKS: "this machine lacks something (QEMU, vsock, KVM)",
    OUTPUT_LOST: "the output cannot be written",
    POOL_REFUSED: "the pool cannot give what is asked",
    NOT_PERMITTED: "not permitted",
    FILE_REFUSED: "a settings or --config file is refused",
    INTERRUPTED: "interrupted",
}
"""What every exit status means; `--help` shows it."""


class Failure(Exception):
    """A command cannot do its work: what is told to the user, and the exit status."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)
