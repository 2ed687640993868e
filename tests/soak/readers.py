"""The readers of what strangers write, each with what must hold of it whatever it is given.

A fuzzer runs them on bytes of its own making (`fuzz.py`), the tests on those that it once found (`corpus/`).
"""

import json
import os
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic_core import to_json

from ali_enclaves_allocator.model.config import ConfigInvalid, load
from ali_enclaves_allocator.server.contract import VarlinkError
from ali_enclaves_allocator.server.service import Service
from ali_enclaves_allocator.server.varlink import _Request
from ali_enclaves_allocator.server.wire import Frames, FrameTooLong
from enclave_cli import eif, measurements
from enclave_cli.failure import IMAGE_REFUSED, Failure

CORPUS = Path(__file__).parent / "corpus"

LIMIT = 4096
"""Of a frame here: less than the server's, so that a fuzzer reaches it."""

METHODS: Mapping[str, Any] = {
    f"io.ali-enclaves.Allocator.{method.name}": method for method in Service(SimpleNamespace()).interface().methods
}


def frames(data: bytes) -> None:
    """A stream of calls. Its first byte says how it is chunked."""
    size, stream = 1 + (data[0] if data else 0), data[1:]
    cutter, got = Frames(LIMIT), list[bytes]()
    try:
        for start in range(0, len(stream), size):
            got += cutter.feed(stream[start : start + size])
        assert b"\0".join([*got, bytes(cutter.partial)]) == stream
    except FrameTooLong:
        longer = next(frame for frame in stream.split(b"\0") if len(frame) > LIMIT)
        assert len(cutter.partial) > LIMIT
        assert longer.startswith(cutter.partial)
    for frame in got:
        assert b"\0" not in frame
        _call(frame)


def _call(frame: bytes) -> None:
    """One call, up to the handler."""
    if (request := _Request.of(frame)) and (method := METHODS.get(request.method)):
        try:
            parameters = method.parse(request.parameters)
        except VarlinkError as error:
            to_json(error.parameters)
        else:
            assert method.parse(json.loads(to_json(parameters))) == parameters


def yaml(data: bytes) -> None:
    """An allocator.yaml. What is accepted means the same when it is written anew; what is refused can be shown."""
    try:
        config, _ = load(data, "allocator.yaml")
    except ConfigInvalid as refused:
        assert refused.problems
        assert all(line.isprintable() for line in str(refused).split("\n"))
    else:
        again = json.dumps(config.model_dump(mode="json", exclude_none=True))
        assert load(again.encode(), "allocator.yaml")[0] == config


def image(data: bytes) -> None:
    """An enclave image; its checksum is set right first, or no fuzzer would ever get past it."""
    if len(data) >= eif.HEADER.size:
        crc = zlib.crc32(data[eif.HEADER.size :], zlib.crc32(data[: eif.AT_CRC]))
        data = data[: eif.AT_CRC] + struct.pack(">I", crc) + data[eif.HEADER.size :]
    fd = os.memfd_create("image")
    try:
        os.write(fd, data)
        _read(f"/proc/self/fd/{fd}", len(data))
    finally:
        os.close(fd)


def _read(path: str, size: int) -> None:
    """Read and measure an image; two who read it read the same."""
    try:
        read = eif.read(path, keep=True, most_bytes=1 << 20)
    except Failure as refused:
        assert refused.status == IMAGE_REFUSED
        assert str(refused).isprintable()
        return
    try:
        assert "\0" not in read.cmdline
        assert all(section.offset + section.size <= size for section in read.sections)
        assert read.kernel is not None
        assert os.fstat(read.kernel).st_size == sum(each.size for each in read.sections if each.kind == eif.KERNEL)
        json.dumps([read.cmdline, read.metadata, measurements.measure(read)])
    except Failure as refused:
        assert str(refused).isprintable()
    finally:
        eif.close(read)


READERS: Mapping[str, Callable[[bytes], None]] = {"frames": frames, "yaml": yaml, "image": image}
