"""The measurements of an image, as the platform configuration registers of a TPM with SHA-256 would hold them.

A register begins as 32 zero bytes; each part extends it: register = SHA-256(register + SHA-256(part)).

    PCR8    the command line
    PCR9    the kernel, then each ramdisk: what is loaded
    PCR11   the kernel, the command line, then each ramdisk: all that runs
    PCR12   the certificate of the signature, if it is signed

In debug mode the enclave can be looked into, so it proves nothing: all are zero.
"""

import hashlib

from enclave_cli import cbor, eif

ALGORITHM = "Sha256 { ... }"
ZERO = bytes(32)


def measure(image: eif.Image) -> dict[str, str]:
    """Return the measurements of an image, in hexadecimal digits. Raises Failure if its signature is none."""
    registers = {
        "PCR8": image.digests(eif.CMDLINE),
        "PCR9": image.digests(eif.KERNEL, eif.RAMDISK),
        "PCR11": image.digests(eif.KERNEL, eif.CMDLINE, eif.RAMDISK),
    }
    if eif.SIGNATURE in image.small:
        registers["PCR12"] = [hashlib.sha256(certificate(image)).digest()]
    return {name: extend(digests).hex() for name, digests in registers.items()}


def extend(digests: list[bytes]) -> bytes:
    """Return a register extended by each digest."""
    register = ZERO
    for digest in digests:
        register = hashlib.sha256(register + digest).digest()
    return register


def certificate(image: eif.Image) -> bytes:
    """Return the certificate in the signature section. The signature itself is not verified. Raises Failure."""
    [section] = [section for section in image.sections if section.kind == eif.SIGNATURE]
    try:
        [entry] = cbor.decode(image.small[eif.SIGNATURE])
        _ = bytes(entry["signature"])
        return bytes(entry["signing_certificate"])
    except (ValueError, TypeError, KeyError) as error:
        raise eif.refusal(
            image.path, f"signature at offset {section.offset}: got {error!r}, wanted one certificate and signature"
        ) from None
