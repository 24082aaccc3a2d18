from __future__ import annotations

import datetime
import os
import pickle
import pickletools
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldline.data.formats.pickled import read_pickle
from worldline.errors import FileError

PROTOCOLS = [2, 3, 4, 5]


def read(tmp_path: Path, content: bytes) -> Any:
    path = tmp_path / "data.pkl"
    path.write_bytes(content)
    return read_pickle(path)


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list | tuple):
        assert type(found) is type(expected)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected
        assert type(found) is type(expected)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_trajectories_come_back(tmp_path: Path, protocol: int):
    rng = np.random.default_rng(0)
    dtypes = ["float16", "float32", "float64", ">f4", "int8", "uint8", ">i8", "uint16", "bool"]
    trajectories = [
        {
            "states": rng.normal(size=(5, 3)),
            "by column": np.asfortranarray(rng.normal(size=(2, 3))),
            "of each dtype": [(100 * rng.random((2, 2))).astype(dtype) for dtype in dtypes],
            "none": np.zeros((0, 3), np.float32),
            "a number": np.array(3.5),
            "values": [True, False, None, 0, 255, 256, -1, 1 << 40, -(1 << 62), 0.1, "é", b"\0\xff", (), (1, 2, 3, 4)],
        }
        for _ in range(3)
    ]
    assert_same(read(tmp_path, pickle.dumps({"trajectories": trajectories}, protocol)), {"trajectories": trajectories})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numbers_of_numpy_become_python_s(tmp_path: Path, protocol: int):
    values = [np.float32(0.5), np.float64(0.1), np.int64(-3), np.bool_(True)]
    assert_same(read(tmp_path, pickle.dumps(values, protocol)), [0.5, 0.1, -3, True])


def test_what_is_in_two_places_is_in_both(tmp_path: Path):
    array = np.arange(3)
    found = read(tmp_path, pickle.dumps([array, array, {"a": array}]))
    assert_same(found, [array, array, {"a": array}])


def test_smaller_and_larger_pickles_of_the_same(tmp_path: Path):
    """A writer may leave out what it does not refer to again, or collect items one by one."""
    data = {"states": np.arange(6.0).reshape(3, 2), "dones": [True, False]}
    assert_same(read(tmp_path, pickletools.optimize(pickle.dumps(data))), data)
    one_by_one = b"\x80\x02}X\x01\x00\x00\x00a](K\x01K\x02e" + b"K\x03as."
    assert_same(read(tmp_path, one_by_one), {"a": [1, 2, 3]})


def test_written_by_python_2(tmp_path: Path):
    """Text as bytes, the old name of NumPy's module, numbers of the memo from 1 on."""
    content = (
        b"\x80\x02}q\x01U\x01xq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87"
        b"R(K\x01K\x02\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00"
        b"tb\x89U\x02\x07\xfftbs."
    )
    assert_same(read(tmp_path, content), {"x": np.array([7, 255], np.uint8)})


def test_arrays_are_views_of_the_file(tmp_path: Path):
    found = read(tmp_path, pickle.dumps(np.arange(1000.0)))
    assert not found.flags.writeable
    assert not found.flags.owndata


@pytest.mark.parametrize(
    "value",
    [OrderedDict(a=1), {1, 2}, datetime.date(2020, 1, 1), os.path.join, np.array(["a"]), np.array([None]), {1: 2}, 1j],
    ids=lambda value: type(value).__name__,
)
def test_other_values_are_refused(tmp_path: Path, value: Any):
    with pytest.raises(FileError, match=r"data\.pkl is not a pickle of NumPy arrays and plain values: .*Save NumPy"):
        read(tmp_path, pickle.dumps(value))


def test_an_array_of_objects_is_named(tmp_path: Path):
    with pytest.raises(FileError, match="an array holds Python objects; expected numbers or booleans"):
        read(tmp_path, pickle.dumps(np.array([{}, {}], dtype=object)))


@pytest.mark.parametrize("protocol", [0, 1])
def test_older_protocols_are_refused(tmp_path: Path, protocol: int):
    with pytest.raises(FileError, match="no protocol from 2 to 5"):
        read(tmp_path, pickle.dumps([1], protocol))


def test_missing_and_empty_files(tmp_path: Path):
    with pytest.raises(FileError, match="Cannot read"):
        read_pickle(tmp_path / "none.pkl")
    with pytest.raises(FileError, match="is empty"):
        read(tmp_path, b"")


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path):
    whole = pickle.dumps({"states": np.arange(6.0).reshape(3, 2), "more": [1.5, "x", (2, 3)]})
    for length in range(len(whole)):
        with pytest.raises(FileError):
            read(tmp_path, whole[:length])


@given(st.integers(0, 1 << 30), st.integers(0, 255))
def test_a_changed_byte_gives_plain_values_or_a_refusal(tmp_path_factory: pytest.TempPathFactory, at: int, byte: int):
    whole = bytearray(pickle.dumps([{"states": np.arange(6.0).reshape(3, 2), "dones": np.zeros(3, bool)}]))
    whole[at % len(whole)] = byte
    path = tmp_path_factory.getbasetemp() / "changed.pkl"
    path.write_bytes(whole)
    try:
        found = read_pickle(path)
    except FileError:
        return
    assert isinstance(found, dict | list | tuple | str | int | float | bytes | np.ndarray | None)
