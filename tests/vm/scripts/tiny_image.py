#!/usr/lib/ali-enclaves/bin/python3
"""Writes an enclave image whose kernel of a few bytes halts, so that it runs at once. Usage: FILE METADATA MIB

With the metadata {"heartbeat": true} a launcher waits for what never comes; with a ramdisk of many MIB it reads long.
"""

import json
import sys
from pathlib import Path

from enclave_cli.eif_build import build

MAGIC, WITH_ADDRESSES = 0x1BADB002, 0x00010000
HEADER, LOAD = 48, 0x100000
HALT = bytes.fromhex("fa f4 ebfd")

size = HEADER + len(HALT)
addresses = (LOAD, LOAD, LOAD + size, LOAD + size, LOAD + HEADER)
multiboot = (MAGIC, WITH_ADDRESSES, -(MAGIC + WITH_ADDRESSES) % 2**32, *addresses)
kernel = b"".join(field.to_bytes(4, "little") for field in multiboot).ljust(HEADER, b"\0") + HALT
path, metadata, mib = sys.argv[1:]
Path(path).write_bytes(build(kernel, "tiny", [bytes(int(mib) << 20)], json.loads(metadata)))
