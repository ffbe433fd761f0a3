"""Reads protobuf messages field by field: of the few that we need, no generated code is worthwhile.

https://protobuf.dev/programming-guides/encoding: a field is a varint `number << 3 | type`, then a
varint (type 0), 8 bytes (1), a varint length and as many bytes (2), or 4 bytes (5).
"""

from collections.abc import Iterator
from typing import Final

_VARINT_BYTES_MAX: Final = 10
_FIXED_BYTES: Final = {1: 8, 5: 4}
_VARINT, _LENGTH_DELIMITED = 0, 2


class NotProtobufError(ValueError):
    """These bytes are no protobuf message."""


def delimited(message: bytes, number: int) -> Iterator[bytes]:
    """Yield what a repeated field of strings or messages holds; other fields are passed over.

    Raises NotProtobufError.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            _, at = _varint(message, at)
            continue
        size = _FIXED_BYTES.get(kind, -1)
        if kind == _LENGTH_DELIMITED:
            size, at = _varint(message, at)
        if size < 0 or at + size > len(message):
            raise NotProtobufError(f"field {key >> 3} of type {kind} is cut short or unknown")
        if kind == _LENGTH_DELIMITED and key >> 3 == number:
            yield message[at : at + size]
        at += size


def text(message: bytes, number: int) -> str:
    """Return a field of type string, the last one as protobuf has it; empty where it is absent.

    Raises NotProtobufError.
    """
    contents = [b"", *delimited(message, number)]
    return _decoded(contents[-1])


def texts(message: bytes, number: int) -> list[str]:
    """Return a repeated field of type string. Raises NotProtobufError."""
    return [_decoded(content) for content in delimited(message, number)]


def _decoded(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise NotProtobufError(f"a text that is no UTF-8: {content[:20]!r}") from error


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return a number and where it ends."""
    value = 0
    for index in range(_VARINT_BYTES_MAX):
        if at + index >= len(message):
            break
        byte = message[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    raise NotProtobufError("a number is cut short, or longer than 64 bits")
