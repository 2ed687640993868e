"""A file of metrics, which others read at any moment: replaced whole, or left as it is."""

import errno
import os
import stat
from pathlib import Path


def replace(file: Path, text: str) -> None:
    """Replace a file, which may be in a directory of another user's: a link there is not followed.

    Raises:
        OSError: it cannot be written; or it is no file, such as /dev/null, which must stay what it is.
    """
    if os.path.lexists(file) and not stat.S_ISREG(file.lstat().st_mode):
        raise OSError(errno.EINVAL, "wanted a regular file, or none")
    part = file.with_name(f".{file.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    try:
        with part.open("x", encoding="utf-8") as draft:
            draft.write(text)
        part.replace(file)
    except OSError:
        part.unlink(missing_ok=True)
        raise
