"""Instructions as bytes."""

import numpy as np
import pytest

from worldline.envs.robot.language import LANGUAGE_BYTES, decode_language, encode_language
from worldline.errors import DataError


@pytest.mark.parametrize("text", ["", "reach the red ball", "erreiche die grüne Kugel", "x" * LANGUAGE_BYTES])
def test_what_is_encoded_is_decoded(text):
    array = encode_language(text)
    assert (array.shape, array.dtype) == ((LANGUAGE_BYTES,), np.uint8)
    assert decode_language(array) == decode_language(array.astype(np.float32)) == text


@pytest.mark.parametrize("text", ["x" * (LANGUAGE_BYTES + 1), "ü" * 33, "a\0b"])
def test_what_does_not_fit_is_refused(text):
    with pytest.raises(DataError, match="at most 64"):
        encode_language(text)


def test_what_is_no_text_is_refused():
    with pytest.raises(DataError, match="UTF-8"):
        decode_language(np.array([255, 254], dtype=np.uint8))
    with pytest.raises(DataError, match="one row"):
        decode_language(np.zeros((2, 64), dtype=np.uint8))
