"""Reads the small files of `/proc` and `/sys`, which change while they are read."""

import os

CHUNK_BYTES = 16_384
LARGEST_BYTES = 1 << 20


def read_kernel_file(path: str, *, until: bytes | None = None) -> bytes:
    """Read a file of the kernel in as few calls as it takes, at most 1 MiB.

    With `until` the rest is left unread once these bytes have come. Unbuffered, since each call
    renders the file anew and a second look would be at another instant.

    Raises:
        OSError: the file is missing, forbidden, or its owner has just gone.

    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.read(descriptor, CHUNK_BYTES)
        part = content
        while part and len(content) < LARGEST_BYTES:
            if until is not None and until in content:
                break
            part = os.read(descriptor, CHUNK_BYTES)
            content += part
        return content
    finally:
        os.close(descriptor)
