"""Enclave image files (EIF), versions 2 to 4: reading and measuring them in one pass.

Every byte is read once: it is checked, hashed and, on request, copied to memory files in the same pass, so that
what boots is what was checked, whatever becomes of the file. No more than a chunk, the small sections and what the
caller asks to keep is ever in memory; a size is believed only after it was compared with the file's.
"""

import hashlib
import json
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator

from enclave_cli.failure import IMAGE_REFUSED, Failure

MAGIC = b".eif"
HEADER = struct.Struct(">4sHHQQHH32Q32QII")
SECTION = struct.Struct(">HHQ")
VERSIONS = (2, 3, 4)
MOST_SECTIONS = 32
AT_VERSION, AT_COUNT, AT_OFFSETS, AT_SIZES, AT_CRC = 4, 26, 28, 284, 544
ARM64 = 1
"""The flag of an image for arm64; without it, x86-64."""

KERNEL, CMDLINE, RAMDISK, SIGNATURE, METADATA = 1, 2, 3, 4, 5
KINDS = {KERNEL: "kernel", CMDLINE: "cmdline", RAMDISK: "ramdisk", SIGNATURE: "signature", METADATA: "metadata"}

LONGEST = {CMDLINE: 2047, METADATA: 1 << 20, SIGNATURE: 1 << 20}
"""The most bytes of a section that is held in memory. The kernel of x86-64 cuts a longer command line."""

CHUNK = 1 << 20

NO_FILES = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


class Section:
    """A part of an image: what it is, where its data lies, and the SHA-256 of it."""

    def __init__(self, kind: int, offset: int, size: int) -> None:
        self.kind, self.offset, self.size = kind, offset, size
        self.sha256 = b""


class Image:
    """A whole and sound image.

    `kernel` and `initrd` are memory files, its owner's to close, or None if they were not asked for or there is no
    ramdisk. `initrd` is all ramdisks, one after the other.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.size = self.version = self.flags = self.default_memory = self.default_cpus = 0
        self.sections: list[Section] = []
        self.small: dict[int, bytes] = {}
        self.kernel: int | None = None
        self.initrd: int | None = None

    @property
    def cmdline(self) -> str:
        """The kernel's command line."""
        return self.small[CMDLINE].decode()

    @property
    def metadata(self) -> dict[str, object]:
        """What its builder wrote about it; empty if nothing."""
        return dict(json.loads(self.small.get(METADATA, b"{}")))

    @property
    def architecture(self) -> str:
        """The machine it is for, as `uname -m` has it."""
        return "aarch64" if self.flags & ARM64 else "x86_64"

    def digests(self, *kinds: int) -> list[bytes]:
        """Return the SHA-256 of all sections of these kinds, in the order of the kinds, then of the file."""
        return [section.sha256 for kind in kinds for section in self.sections if section.kind == kind]


def read(path: str, keep: bool = False, most_bytes: int | None = None) -> Image:
    """Read the image at `path`; `keep` its kernel and ramdisks in memory files. Raises Failure.

    A file of more than `most_bytes` is refused before it is read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise refusal(path, f"cannot open it: {error.strerror}") from None
    try:
        return _Reader(path, fd, keep, most_bytes).read()
    except OSError as error:
        raise refusal(path, f"cannot read it: {error.strerror}") from None
    finally:
        os.close(fd)


def refusal(path: str, why: str) -> Failure:
    """Return the failure that refuses an image; its path is told as a shell takes it, so that an empty one is seen."""
    from shlex import quote

    return Failure(IMAGE_REFUSED, f"cannot use image {quote(path)}: {why}; nothing was taken from the pool")


class _Reader:
    """One pass over an open file."""

    def __init__(self, path: str, fd: int, keep: bool, most_bytes: int | None) -> None:
        self.image, self.fd, self.keep, self.most_bytes = Image(path), fd, keep, most_bytes
        self.position = self.crc = 0

    def refuse(self, field: str, offset: int, got: object, wanted: object) -> Failure:
        return refusal(self.image.path, f"{field} at offset {offset}: got {got}, wanted {wanted}")

    def read(self) -> Image:
        image = self.image
        try:
            self.check_file()
            crc, table = self.read_header()
            for number, (offset, size) in enumerate(table):
                self.read_section(number, offset, size)
            self.copy(image.size - self.position)
            if self.crc != crc:
                raise self.refuse("CRC32", AT_CRC, f"{crc:#010x}", f"{self.crc:#010x} (the file is damaged)")
            self.check_contents()
        except BaseException:
            close(image)
            raise
        return image

    def check_file(self) -> None:
        status = os.fstat(self.fd)
        if not stat.S_ISREG(status.st_mode):
            kind = NO_FILES.get(stat.S_IFMT(status.st_mode), "something else")
            raise refusal(self.image.path, f"got {kind}, wanted a regular file")
        self.image.size = status.st_size
        if status.st_size < HEADER.size:
            raise self.refuse("header", 0, f"{status.st_size} bytes", f"{HEADER.size} bytes")
        if self.most_bytes is not None and status.st_size > self.most_bytes:
            got, most = -(-status.st_size // 1024), self.most_bytes // 1024
            raise refusal(
                self.image.path,
                f"got {got} KiB, wanted at most {most} KiB, a quarter of the memory (give --memory "
                f"{-(-status.st_size * 4 // (1 << 20))} or more)",
            )

    def read_header(self) -> tuple[int, list[tuple[int, int]]]:
        """Return the CRC that the header tells, and offset and size of each section."""
        raw = self.take(HEADER.size, in_crc=False)
        self.crc = zlib.crc32(raw[:AT_CRC])
        magic, version, flags, memory, cpus, _, count, *rest = HEADER.unpack(raw)
        image = self.image
        if magic != MAGIC:
            raise self.refuse("magic", 0, magic, f"{MAGIC!r}")
        if version not in VERSIONS:
            raise self.refuse("version", AT_VERSION, version, f"{VERSIONS[0]} to {VERSIONS[-1]}")
        if count > MOST_SECTIONS:
            raise self.refuse("number of sections", AT_COUNT, count, f"at most {MOST_SECTIONS}")
        image.version, image.flags, image.default_memory, image.default_cpus = version, flags, memory, cpus
        return rest[-1], list(zip(rest[:count], rest[MOST_SECTIONS : MOST_SECTIONS + count], strict=True))

    def read_section(self, number: int, offset: int, size: int) -> None:
        image = self.image
        name, last = f"section {number}", image.size - SECTION.size
        if not self.position <= offset <= last:
            wanted = f"{self.position} to {last} (after what comes before it, inside the file)"
            raise self.refuse(f"{name}: offset", AT_OFFSETS + 8 * number, offset, wanted)
        if size > last - offset:
            wanted = f"at most {last - offset} (inside the file)"
            raise self.refuse(f"{name}: size", AT_SIZES + 8 * number, size, wanted)
        self.copy(offset - self.position)
        kind, _, own_size = SECTION.unpack(self.take(SECTION.size))
        if kind not in KINDS:
            raise self.refuse(f"{name}: type", offset, kind, f"one of {', '.join(map(str, KINDS))}")
        name += f" ({KINDS[kind]})"
        if own_size != size:
            raise self.refuse(f"{name}: size", offset + 4, own_size, f"{size}, as the header has it")
        if kind != RAMDISK and any(section.kind == kind for section in image.sections):
            raise self.refuse(f"{name}: type", offset, f"a second {KINDS[kind]}", "one")
        if size > LONGEST.get(kind, size):
            raise self.refuse(f"{name}: size", offset + 4, size, f"at most {LONGEST[kind]}")
        section = Section(kind, self.position, size)
        image.sections.append(section)
        self.read_data(section)

    def read_data(self, section: Section) -> None:
        image, digest = self.image, hashlib.sha256()
        sinks: list[Callable[[bytes], object]] = [digest.update]
        if section.kind in LONGEST:
            image.small[section.kind] = b""
            data = bytearray()
            sinks.append(data.extend)
        elif self.keep:
            sinks.append(self.memory_file(section.kind))
        self.copy(section.size, *sinks)
        section.sha256 = digest.digest()
        if section.kind in LONGEST:
            image.small[section.kind] = bytes(data)

    def memory_file(self, kind: int) -> Callable[[bytes], object]:
        """Return what writes to the memory file of a kernel or a ramdisk."""
        image = self.image
        if kind == KERNEL:
            fd = image.kernel = os.memfd_create("kernel")
        elif image.initrd is None:
            fd = image.initrd = os.memfd_create("initrd")
        else:
            fd = image.initrd
            _write(fd, bytes(-os.fstat(fd).st_size % 4))  # the kernel looks for the next archive at a multiple of 4
        return lambda data: _write(fd, data)

    def copy(self, size: int, *sinks: Callable[[bytes], object]) -> None:
        """Pass the next bytes of the file to all sinks, a chunk at a time."""
        while size:
            data = self.take(min(size, CHUNK))
            for sink in sinks:
                sink(data)
            size -= len(data)

    def take(self, size: int, in_crc: bool = True) -> bytes:
        """Return exactly the next `size` bytes; no more than a chunk is asked for."""
        data = b""
        while len(data) < size:
            more = os.read(self.fd, size - len(data))
            if not more:
                raise self.refuse("end of file", self.position + len(data), "it cut meanwhile", "it unchanged")
            data += more
        self.position += size
        if in_crc:
            self.crc = zlib.crc32(data, self.crc)
        return data

    def check_contents(self) -> None:
        """Check what can only be told of a whole and undamaged image."""
        image = self.image
        found = {section.kind: section for section in image.sections}
        for kind in (KERNEL, CMDLINE):
            if kind not in found or not found[kind].size:
                got = "none" if kind not in found else "an empty one"
                raise self.refuse(f"{KINDS[kind]} section", AT_OFFSETS, got, "one")
        where = found[CMDLINE].offset
        nul = image.small[CMDLINE].find(0)
        if nul >= 0:
            raise self.refuse("cmdline", where + nul, "a NUL byte", "text")
        try:
            _ = image.cmdline
        except UnicodeDecodeError as error:
            raise self.refuse("cmdline", where + error.start, "bytes that are not UTF-8", "text") from None
        try:
            _ = image.metadata
        except (ValueError, TypeError, RecursionError):
            raise self.refuse("metadata", found[METADATA].offset, "something else", "a JSON object") from None


def close(image: Image) -> None:
    """Close the memory files of an image; once more does nothing."""
    for fd in (image.kernel, image.initrd):
        if fd is not None:
            os.close(fd)
    image.kernel = image.initrd = None


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def layout(sections: list[tuple[int, int]]) -> Iterator[int]:
    """Yield the offset of each section, given kind and size, when they lie one after the other behind the header."""
    offset = HEADER.size
    for _, size in sections:
        yield offset
        offset += SECTION.size + size
