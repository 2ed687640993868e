"""The image reader against images made here, byte by byte: whole ones, cut ones, damaged ones and lying ones."""

import hashlib
import json
import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enclave_cli import cbor, eif, measurements
from enclave_cli.eif_build import build, join
from enclave_cli.failure import IMAGE_REFUSED, Failure

KERNEL, CMDLINE, RAMDISKS = b"kernel" * 99, "console=ttyS0 quiet", [b"first", b"second one"]
CERTIFICATE = b"-----BEGIN CERTIFICATE-----"


def ints(values: bytes) -> bytes:
    """Return an array of small integers in CBOR."""
    return (
        b"\x99"
        + struct.pack(">H", len(values))
        + b"".join(b"\x18" + bytes([v]) if v > 23 else bytes([v]) for v in values)
    )


SIGNATURE = b"\x81\xa2\x73signing_certificate" + ints(CERTIFICATE) + b"\x69signature" + ints(b"sig")
PARTS = [
    (eif.KERNEL, KERNEL),
    (eif.CMDLINE, CMDLINE.encode()),
    (eif.METADATA, b'{"name": "example"}'),
    *((eif.RAMDISK, ramdisk) for ramdisk in RAMDISKS),
    (eif.SIGNATURE, SIGNATURE),
]
WHOLE = join(PARTS, memory_bytes=256 << 20, cpus=2)


def reseal(image: bytes) -> bytes:
    """Return the image with the CRC that it should have."""
    crc = zlib.crc32(image[548:], zlib.crc32(image[:544]))
    return image[:544] + struct.pack(">I", crc) + image[548:]


def patch(image: bytes, offset: int, data: bytes) -> bytes:
    return reseal(image[:offset] + data + image[offset + len(data) :])


def read(tmp_path: Path, data: bytes, keep: bool = False) -> eif.Image:
    path = tmp_path / "test.eif"
    path.write_bytes(data)
    return eif.read(str(path), keep=keep)


def refused(tmp_path: Path, data: bytes) -> str:
    with pytest.raises(Failure) as caught:
        read(tmp_path, data)
    assert caught.value.status == IMAGE_REFUSED
    message = str(caught.value)
    assert "\n" not in message and message.endswith("nothing was taken from the pool")
    return message


def content(fd: int | None) -> bytes:
    assert fd is not None
    return os.pread(fd, 1 << 20, 0)


def test_all_parts_of_a_whole_image(tmp_path: Path) -> None:
    image = read(tmp_path, WHOLE, keep=True)
    assert (image.version, image.architecture, image.size) == (4, "x86_64", len(WHOLE))
    assert (image.default_memory, image.default_cpus) == (256 << 20, 2)
    assert content(image.kernel) == KERNEL
    assert content(image.initrd) == b"first\0\0\0second one"
    assert (image.cmdline, image.metadata) == (CMDLINE, {"name": "example"})
    eif.close(image)
    eif.close(image)


def test_the_writer_keeps_the_documented_order_and_offsets(tmp_path: Path) -> None:
    data = build(KERNEL, CMDLINE, RAMDISKS, {"name": "example"}, 256, 2)
    image = read(tmp_path, data)
    assert [part.kind for part in image.sections] == [1, 2, 5, 3, 3]
    assert data[:12] == b".eif\x00\x04\x00\x00" + (256 << 20).to_bytes(8, "big")[:4]
    first, size = struct.unpack_from(">Q", data, 28)[0], struct.unpack_from(">Q", data, 284)[0]
    assert (first, size) == (548, len(KERNEL))
    assert struct.unpack_from(">HHQ", data, first) == (1, 0, len(KERNEL))
    assert struct.unpack_from(">Q", data, 36)[0] == first + 12 + size


def test_an_image_without_ramdisk_has_no_initrd(tmp_path: Path) -> None:
    image = read(tmp_path, build(KERNEL, CMDLINE, []), keep=True)
    assert image.initrd is None
    eif.close(image)


def test_nothing_is_kept_unless_asked_for(tmp_path: Path) -> None:
    image = read(tmp_path, WHOLE)
    assert image.kernel is None and image.initrd is None


@pytest.mark.parametrize("version", [2, 3, 4])
def test_versions(tmp_path: Path, version: int) -> None:
    assert read(tmp_path, join(PARTS, version=version)).version == version


def test_the_measurements_are_registers_of_a_tpm(tmp_path: Path) -> None:
    def extended(*parts: bytes) -> str:
        register = bytes(32)
        for part in parts:
            register = hashlib.sha256(register + hashlib.sha256(part).digest()).digest()
        return register.hex()

    assert measurements.measure(read(tmp_path, WHOLE)) == {
        "PCR8": extended(CMDLINE.encode()),
        "PCR9": extended(KERNEL, *RAMDISKS),
        "PCR11": extended(KERNEL, CMDLINE.encode(), *RAMDISKS),
        "PCR12": extended(CERTIFICATE),
    }
    assert "PCR12" not in measurements.measure(read(tmp_path, build(KERNEL, CMDLINE, RAMDISKS)))


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    for size in range(len(WHOLE)):
        refused(tmp_path, WHOLE[:size])


def test_every_truncation_is_refused_although_its_crc_is_right(tmp_path: Path) -> None:
    for size in range(548, len(WHOLE)):
        message = refused(tmp_path, reseal(WHOLE[:size]))
        assert "inside the file" in message, message


def test_every_flipped_bit_is_refused(tmp_path: Path) -> None:
    for byte in [*range(64), 284, 300, 543, 544, 547, *range(548, len(WHOLE), 7)]:
        for bit in (1, 16, 128):
            damaged = bytearray(WHOLE)
            damaged[byte] ^= bit
            refused(tmp_path, bytes(damaged))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "header at offset 0: got 0 bytes, wanted 548 bytes"),
        (patch(WHOLE, 0, b".elf"), "magic at offset 0: got b'.elf', wanted b'.eif'"),
        (patch(WHOLE, 4, b"\0\1"), "version at offset 4: got 1, wanted 2 to 4"),
        (patch(WHOLE, 4, b"\0\5"), "version at offset 4: got 5, wanted 2 to 4"),
        (patch(WHOLE, 26, b"\0\x21"), "number of sections at offset 26: got 33, wanted at most 32"),
        (patch(WHOLE, 26, b"\xff\xff"), "number of sections at offset 26: got 65535, wanted at most 32"),
        (patch(WHOLE, 26, b"\0\0"), "kernel section at offset 28: got none, wanted one"),
        (patch(WHOLE, 26, b"\0\1"), "cmdline section at offset 28: got none, wanted one"),
        (patch(WHOLE, 28, b"\xff" * 8), "section 0: offset at offset 28: got 18446744073709551615, wanted 548 to "),
        (patch(WHOLE, 36, (548).to_bytes(8, "big")), "section 1: offset at offset 36: got 548, wanted 1154 to "),
        (patch(WHOLE, 284, b"\x7f" + b"\xff" * 7), "section 0: size at offset 284: got 9223372036854775807, wanted at"),
        (patch(WHOLE, 548, b"\0\0"), "section 0: type at offset 548: got 0, wanted one of 1, 2, 3, 4, 5"),
        (patch(WHOLE, 552, bytes(8)), "section 0 (kernel): size at offset 552: got 0, wanted 594, as the header"),
        (WHOLE[:544] + b"\0\0\0\0" + WHOLE[548:], "CRC32 at offset 544: got 0x00000000, wanted 0x"),
        (join([*PARTS, PARTS[0]]), "section 6 (kernel): type at offset"),
        (join([*PARTS, PARTS[1]]), "section 6 (cmdline): type at offset"),
        (join([*PARTS, PARTS[2]]), "section 6 (metadata): type at offset"),
        (join([*PARTS, PARTS[5]]), "section 6 (signature): type at offset"),
        (join(PARTS[1:]), "kernel section at offset 28: got none, wanted one"),
        (join([(eif.KERNEL, b""), PARTS[1]]), "kernel section at offset 28: got an empty one, wanted one"),
        (join([PARTS[0], (eif.CMDLINE, b"quiet\0")]), "cmdline at offset 1171: got a NUL byte, wanted text"),
        (join([PARTS[0], (eif.CMDLINE, b"qu\xff")]), "cmdline at offset 1168: got bytes that are not UTF-8"),
        (join([PARTS[0], (eif.CMDLINE, b"x" * 2048)]), "(cmdline): size at offset 1158: got 2048, wanted at most 2047"),
        (join([*PARTS[:2], (eif.METADATA, b"[1]")]), "wanted a JSON object"),
        (join([*PARTS[:2], (eif.METADATA, b"[" * 100_000)]), "wanted a JSON object"),
        (join([*PARTS[:2], (eif.METADATA, b"\xff")]), "wanted a JSON object"),
    ],
)  # fmt: skip
def test_refusals_name_field_and_offset(tmp_path: Path, data: bytes, told: str) -> None:
    assert told in refused(tmp_path, data)


@pytest.mark.parametrize(
    "signature", [b"", b"\x80", b"\x81\xa0", SIGNATURE[:-1], SIGNATURE + b"\0", b"\x9b" + b"\xff" * 8, b"\x81" * 99]
)
def test_a_signature_that_is_none(tmp_path: Path, signature: bytes) -> None:
    image = read(tmp_path, join([*PARTS[:2], (eif.SIGNATURE, signature)]))
    with pytest.raises(Failure, match="signature at offset"):
        measurements.measure(image)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, told in [
        (tmp_path, "got a directory, wanted a regular file"),
        (tmp_path / "fifo", "got a FIFO, wanted a regular file"),
        (Path("/dev/null"), "got a character device, wanted a regular file"),
        (tmp_path / "absent", "cannot open it: No such file or directory"),
        (Path("/proc/self/mem"), "header at offset 0: got 0 bytes"),
    ]:
        with pytest.raises(Failure) as caught:
            eif.read(str(path))
        assert told in str(caught.value)


def test_a_file_too_large_for_the_memory_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.eif"
    path.write_bytes(WHOLE)
    os.truncate(path, 1 << 40)
    with pytest.raises(Failure, match=r"wanted at most 65536 KiB, a quarter of the memory \(give --memory 4194304 or"):
        eif.read(str(path), most_bytes=64 << 20)


def test_memory_stays_bounded_whatever_an_image_says(tmp_path: Path) -> None:
    large = join([(eif.KERNEL, bytes(24 << 20)), PARTS[1]])
    lying = patch(large, 292, (1 << 62).to_bytes(8, "big"))
    (tmp_path / "large.eif").write_bytes(large)
    (tmp_path / "lying.eif").write_bytes(lying)
    del large, lying
    tracemalloc.start()
    try:
        eif.read(str(tmp_path / "large.eif"))
        with pytest.raises(Failure):
            eif.read(str(tmp_path / "lying.eif"))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_refused_image_leaves_no_memory_file(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    path = tmp_path / "damaged.eif"
    path.write_bytes(WHOLE[:-1] + b"!")
    with pytest.raises(Failure):
        eif.read(str(path), keep=True)
    assert os.listdir("/proc/self/fd") == before


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_nothing_but_a_refusal_comes_of_noise(tmp_path: Path, data: st.DataObject) -> None:
    noisy = bytearray(data.draw(st.sampled_from([WHOLE, WHOLE[:548], build(b"k", "c", [])])))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.one_of(st.integers(0, 60), st.integers(284, 320), st.integers(0, len(noisy) - 1)))
        noise = data.draw(st.binary(min_size=1, max_size=8))
        noisy[at : at + len(noise)] = noise
    path = tmp_path / "noisy.eif"
    path.write_bytes(reseal(bytes(noisy)) if data.draw(st.booleans()) else bytes(noisy))
    try:
        image = eif.read(str(path))
        json.dumps([image.cmdline, image.metadata, measurements.measure(image)])
    except Failure as failure:
        assert failure.status == IMAGE_REFUSED


@given(st.binary(max_size=64))
def test_cbor_of_noise(noise: bytes) -> None:
    try:
        cbor.decode(noise)
    except ValueError:
        return
