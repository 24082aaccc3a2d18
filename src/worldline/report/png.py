"""Pictures as PNG, for pages that need nothing else."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

from worldline.episode import Array
from worldline.errors import DataError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encode_png(image: Array) -> bytes:
    """Return `[H, W, 3]` uint8 as the bytes of a PNG file (PNG specification, third edition; every row unfiltered).

    Raises:
        DataError: It is not such an image.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise DataError(f"A picture is [H, W, 3] uint8; got {image.shape} {image.dtype}.")
    height, width, _ = image.shape
    rows = np.zeros((height, 1 + 3 * width), dtype=np.uint8)  # the first byte of a row says how it is filtered
    rows[:, 1:] = image.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, true colour
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(kind, content) for kind, content in parts)


def data_address(png: bytes) -> str:
    """Return an address with the picture in it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
