"""The scripts of the ring, which share what lies in `scripts/`: each runs with all of it beside itself."""

from pathlib import Path

from guest import built_enclave_image

SCRIPTS = Path(__file__).parent / "scripts"
WITH_IMAGE = {"enclave.sh"}
"""The scripts that boot an enclave."""


def names() -> list[str]:
    """Return the names that a script of the ring may have."""
    return sorted(path.name for path in SCRIPTS.glob("*.sh"))


def path(name: str) -> Path:
    """Return where a script is."""
    return SCRIPTS / name


def beside(script: Path) -> list[Path]:
    """Return what is laid beside a script."""
    files = [path for path in SCRIPTS.iterdir() if path.is_file() and path != script]
    return [*files, built_enclave_image()] if script.name in WITH_IMAGE else files
