"""As much of CBOR (RFC 8949) as the signature section of an image needs: integers, strings, arrays and maps."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

UNSIGNED, NEGATIVE, BYTES, TEXT, ARRAY, MAP = range(6)
DEEPEST = 8


def decode(data: bytes) -> "Any":
    """Return the one value that `data` is. Raises ValueError for anything else."""
    value, end = _value(data, 0, DEEPEST)
    if end != len(data):
        raise ValueError(f"{len(data) - end} bytes too many")
    return value


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    """Return the major type, the argument and the offset behind them."""
    if at >= len(data):
        raise ValueError("cut short")
    kind, short = divmod(data[at], 32)
    if short < 24:
        return kind, short, at + 1
    size = {24: 1, 25: 2, 26: 4, 27: 8}.get(short)
    if size is None or at + 1 + size > len(data):
        raise ValueError("cut short, or of unknown length")
    return kind, int.from_bytes(data[at + 1 : at + 1 + size], "big"), at + 1 + size


def _value(data: bytes, at: int, depth: int) -> "tuple[Any, int]":
    kind, argument, at = _head(data, at)
    if kind in (UNSIGNED, NEGATIVE):
        return (argument if kind == UNSIGNED else -1 - argument), at
    if kind not in (BYTES, TEXT, ARRAY, MAP) or not depth:
        raise ValueError("of a type that no signature has")
    if argument > len(data) - at:  # every element has a byte at least
        raise ValueError("cut short")
    if kind in (BYTES, TEXT):
        raw = data[at : at + argument]
        return (raw if kind == BYTES else raw.decode()), at + argument
    values = []
    for _ in range(argument * (2 if kind == MAP else 1)):
        value, at = _value(data, at, depth - 1)
        values.append(value)
    if kind == ARRAY:
        return values, at
    return {str(key): value for key, value in zip(values[::2], values[1::2], strict=True)}, at
