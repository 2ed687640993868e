"""The commands of `enclave-cli`."""

import argparse

from enclave_cli import __version__


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = argparse.ArgumentParser(prog="enclave-cli", description="launch and look after enclave VMs")
    parser.add_argument("--version", action="version", version=f"enclave-cli {__version__}")
    parser.parse_args(argv)
    parser.print_help()
    return 2
