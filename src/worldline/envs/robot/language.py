"""Instructions as arrays: text is no observation, its bytes are.

An instruction is `[64]` uint8: its UTF-8 bytes, then zeros. So it is a column like every other, in memory, in files and
in batches, and a policy may take the bytes themselves as tokens, with zero as padding.
"""

from __future__ import annotations

import numpy as np

from worldline.episode import Array
from worldline.errors import DataError

LANGUAGE = "language"  # the key of instructions, in observations, info and the meta of episodes
LANGUAGE_BYTES = 64


def encode_language(text: str) -> Array:
    """Return the instruction as `[64]` uint8.

    >>> encode_language("go")[:3].tolist()
    [103, 111, 0]

    Raises:
        DataError: It is longer than 64 bytes, or has a zero in it.
    """
    encoded = text.encode("utf-8")
    if len(encoded) > LANGUAGE_BYTES or 0 in encoded:
        raise DataError(
            f"The instruction {text[:80]!r} has {len(encoded)} bytes; expected at most {LANGUAGE_BYTES}, none of them "
            "zero. Say it in fewer words."
        )
    array = np.zeros(LANGUAGE_BYTES, dtype=np.uint8)
    array[: len(encoded)] = np.frombuffer(encoded, dtype=np.uint8)
    return array


def decode_language(array: Array) -> str:
    """Return the text of `encode_language`'s array `[64]`, of any dtype: data sets hold vectors as float32.

    >>> decode_language(encode_language("reach the red ball").astype("float32"))
    'reach the red ball'

    Raises:
        DataError: It is not one row of bytes of UTF-8 text.
    """
    if array.ndim != 1:
        raise DataError(f"An instruction is one row of bytes; got shape {array.shape}.")
    try:
        return bytes(array.astype(np.uint8)).rstrip(b"\0").decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"The instruction is not UTF-8 text: {error}. Was it made by encode_language?") from error
