"""The errors a user can meet: types with numbers in them.

Each one renders as `what: got and wanted; the state of the system`, then an optional hint in brackets. The
same fields travel over the socket as the parameters of a Varlink error of the same name.
"""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

EX_UNAVAILABLE = 69
"""Exit status when the machine cannot give what the file asks for (sysexits.h)."""

EX_CONFIG = 78
"""Exit status when the configuration file is refused (sysexits.h)."""


@dataclass
class AllocatorError(Exception):
    """Any error that a user can meet and act on."""

    exit_code: ClassVar[int] = EX_UNAVAILABLE

    def what(self) -> str:
        """Return the sentence: what failed, what was got and wanted."""
        raise NotImplementedError

    def hint(self) -> str:
        """Return what to do about it, or an empty string."""
        return ""

    def parameters(self) -> dict[str, Any]:
        """Return the fields as plain values, as they travel over the socket."""
        return asdict(self)

    def __str__(self) -> str:
        hint = self.hint()
        return f"{self.what()}\n  ({hint})" if hint else self.what()
