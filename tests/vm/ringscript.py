"""The scripts of the ring, which share what lies in `scripts/`: each runs with all of it beside itself."""

from pathlib import Path

SCRIPTS = Path(__file__).parent / "scripts"


def names() -> list[str]:
    """Return the names that a script of the ring may have."""
    return sorted(path.name for path in SCRIPTS.glob("*.sh"))


def path(name: str) -> Path:
    """Return where a script is."""
    return SCRIPTS / name


def beside(script: Path) -> list[Path]:
    """Return what is laid beside a script."""
    return [path for path in SCRIPTS.iterdir() if path.is_file() and path != script]
