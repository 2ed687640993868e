"""The guests of the ring: one boots for each part, and its scripts run in it one after another."""

from collections.abc import Iterator
from difflib import unified_diff

import pytest
import ringscript
from guest import GUEST_FAILED, TIMED_OUT, Guest, GuestError, built_package
from machine import Machine

BOOTS = 3
SECONDS = 600.0
LONG_SECONDS = {"lease_cycles.sh": 2400.0}
"""How long a script may take."""

NEXT = "+next"
"""Makes a package a later version than that of the tree; the same program."""

PACKAGES = {
    "package.sh": [("deb",), ("rpm",)],
    "upgrade.sh": [("deb",), ("deb", NEXT), ("rpm",), ("rpm", NEXT)],
}
"""What scripts about packages find beside them."""


class Booted:
    """A guest in which scripts run that leave it as they found it; one that they did not is booted afresh."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._guest: Guest | None = None
        self._fresh = ""

    def run(self, name: str, *arguments: str) -> None:
        """Run a script; fail with all it printed, and with what it left behind."""
        self.boot()
        try:
            printed = self._run(name, *arguments)
            left = self._run("state.sh")
        except BaseException:
            self.shut_down()
            raise
        if left != self._fresh:
            self.shut_down()
            difference = unified_diff(self._fresh.splitlines(), left.splitlines(), "before", "after", lineterm="", n=0)
            pytest.fail("\n".join([f"{name} left behind:", *difference, "and printed:", printed]), pytrace=False)

    def boot(self) -> None:
        """Boot the guest if it does not run. Emulation may fail it: try again."""
        tries = 0
        while not self._guest:
            tries += 1
            try:
                self._guest = Guest(self._machine).__enter__()
            except GuestError as error:
                if tries == BOOTS:
                    pytest.fail(f"{self._machine}: {error}", pytrace=False)
            else:
                self._fresh = self._run("state.sh")

    def shut_down(self) -> None:
        """End the guest, if it runs."""
        if self._guest:
            self._guest.__exit__()
            self._guest = None

    def _run(self, name: str, *arguments: str) -> str:
        """Run a script and return what it printed; if it fails, so does the test, with all there is to see."""
        status, told = self._tell(name, *arguments)
        if status == TIMED_OUT:
            told += self._tell("aftermath.sh")[1]
        if status:
            pytest.fail(f"{' '.join([name, *arguments])}: exit status {status}:\n{told}", pytrace=False)
        return told

    def _tell(self, name: str, *arguments: str) -> tuple[int, str]:
        """Run a script; return its status and what it printed. If the guest dies under it, its console tells too."""
        assert self._guest
        script, printed, death = ringscript.path(name), bytearray(), ""
        seconds = LONG_SECONDS.get(name, SECONDS)
        files = [*ringscript.beside(script), *(built_package(*wanted) for wanted in PACKAGES.get(name, []))]
        try:
            status = self._guest.run_script(script, arguments, files, seconds, printed.extend).status
        except GuestError as error:
            status, death = GUEST_FAILED, f"\n{error}"
        return status, printed.decode(errors="replace") + death


class Ring:
    """One guest at a time: that of the part that was asked for last."""

    def __init__(self) -> None:
        self._part = ""
        self._booted: Booted | None = None

    def guest(self, part: str, machine: Machine) -> Booted:
        """Return the guest of a part, which is of that machine."""
        if self._booted is None or self._part != part:
            self.shut_down()
            self._part, self._booted = part, Booted(machine)
        return self._booted

    def shut_down(self) -> None:
        """End the guest, if there is one."""
        if self._booted:
            self._booted.shut_down()
            self._booted = None


@pytest.fixture(scope="session")
def ring() -> Iterator[Ring]:
    """Return the ring. A fixture by parameter would not do: pytest ends it when the test's other parameters change."""
    ring = Ring()
    yield ring
    ring.shut_down()
