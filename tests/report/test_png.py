"""PNG against an independent reader, and by hand."""

import base64
import io
import zlib

import numpy as np
import pytest

from worldline.errors import DataError
from worldline.report.png import data_address, encode_png


def test_a_picture_is_read_back():
    image_module = pytest.importorskip("PIL.Image")
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    with image_module.open(io.BytesIO(encode_png(image))) as read:
        read.load()
        np.testing.assert_array_equal(np.asarray(read), image)


def test_one_red_pixel_byte_by_byte():
    png = encode_png(np.array([[[255, 0, 0]]], dtype=np.uint8))
    assert png[:16] == b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
    assert png[16:29] == b"\x00\x00\x00\x01\x00\x00\x00\x01\x08\x02\x00\x00\x00"
    start = png.index(b"IDAT") + 4
    assert (
        zlib.decompress(png[start : start + int.from_bytes(png[start - 8 : start - 4], "big")]) == b"\x00\xff\x00\x00"
    )
    assert png.endswith(b"\x00\x00\x00\x00IEND\xaeB`\x82")
    assert base64.b64decode(data_address(png).partition(",")[2]) == png


@pytest.mark.parametrize("image", [np.zeros((2, 2, 3)), np.zeros((2, 2), np.uint8), np.zeros((0, 2, 3), np.uint8)])
def test_what_is_no_picture_is_refused(image):
    with pytest.raises(DataError, match="uint8"):
        encode_png(image)
