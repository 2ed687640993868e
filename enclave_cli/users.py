"""The users of this machine, by the names that people know them by: the allocator has their numbers only."""

import os

from enclave_cli import failure
from enclave_cli.failure import Failure


def named(uid: int) -> str:
    """Name a user: `alice (uid 1000)`, or `uid 1000` where the name service knows no name."""
    import pwd

    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
    return f"{name} (uid {uid})" if name.isprintable() else f"uid {uid}"


def not_theirs(action: str, owner: int) -> Failure:
    """Return the failure of what only root and an enclave's user may do."""
    need = f"got {named(os.geteuid())}, wanted root or {named(owner)}, whose enclave it is"
    return Failure(failure.NOT_PERMITTED, f"cannot {action}: {need}; nothing was changed")
