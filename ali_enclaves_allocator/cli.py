"""The commands of `ali-enclaves-allocator`."""

import argparse

from ali_enclaves_allocator import __version__


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = argparse.ArgumentParser(prog="ali-enclaves-allocator")
    parser.add_argument("--version", action="version", version=f"ali-enclaves-allocator {__version__}")
    parser.parse_args(argv)
    return 2
