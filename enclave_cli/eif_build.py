"""Puts an enclave image file together: `python3 -m enclave_cli.eif_build --help`. For builders, not for users.

The same input gives the same bytes: nothing of the time or the machine goes in.
"""

import argparse
import json
import sys
import zlib
from pathlib import Path

from enclave_cli import eif


def build(
    kernel: bytes,
    cmdline: str,
    ramdisks: list[bytes],
    metadata: dict[str, object] | None = None,
    memory_mib: int = 0,
    cpus: int = 0,
) -> bytes:
    """Return an image of version 4 for x86-64; `memory_mib` and `cpus` are what it likes to have."""
    sections = [(eif.KERNEL, kernel), (eif.CMDLINE, cmdline.encode())]
    if metadata is not None:
        sections.append((eif.METADATA, json.dumps(metadata).encode()))
    sections += [(eif.RAMDISK, ramdisk) for ramdisk in ramdisks]
    return join(sections, memory_mib << 20, cpus)


def join(sections: list[tuple[int, bytes]], memory_bytes: int = 0, cpus: int = 0, version: int = 4) -> bytes:
    """Return an image of these sections, whatever they are."""
    sizes = [len(data) for _, data in sections]
    offsets = list(eif.layout([(kind, len(data)) for kind, data in sections]))
    body = b"".join(eif.SECTION.pack(kind, 0, len(data)) + data for kind, data in sections)
    unused = [0] * (eif.MOST_SECTIONS - len(sections))
    header = eif.HEADER.pack(
        eif.MAGIC, version, 0, memory_bytes, cpus, 0, len(sections), *offsets, *unused, *sizes, *unused, 0, 0
    )[: eif.AT_CRC]
    return header + zlib.crc32(body, zlib.crc32(header)).to_bytes(4, "big") + body


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="eif_build", description="Put an enclave image file together.")
    parser.add_argument("--kernel", type=Path, required=True, metavar="FILE", help="what the enclave boots")
    parser.add_argument("--cmdline", required=True, metavar="TEXT", help="the kernel's command line")
    parser.add_argument("--ramdisk", type=Path, action="append", default=[], metavar="FILE", help="may be repeated")
    metadata = 'what is known of it, such as {"heartbeat": true}: it says when it is up'
    parser.add_argument("--metadata", type=json.loads, metavar="JSON", help=metadata)
    parser.add_argument("--memory", type=int, default=0, metavar="MIB", help="the memory it likes to have")
    parser.add_argument("--cpus", type=int, default=0, metavar="N", help="the CPUs it likes to have")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the image; replaced if it is there")
    given = parser.parse_args(argv)
    try:
        ramdisks = [path.read_bytes() for path in given.ramdisk]
        image = build(given.kernel.read_bytes(), given.cmdline, ramdisks, given.metadata, given.memory, given.cpus)
        given.output.write_bytes(image)
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
