"""What of HDF5 is read, and that our own inflating gives what the library's does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.data.formats.hdf5_file import HDF5File
from worldline.errors import DataError, FileError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.h5"


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_chunks_are_read_as_the_library_reads_them(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("chunks") / "data.h5"
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    chunks = tuple(data.draw(st.integers(1, size)) for size in shape)
    dtype = data.draw(st.sampled_from([np.float32, np.float64, np.uint8, np.int16, np.bool_]))
    options: dict[str, Any] = data.draw(
        st.sampled_from([{}, {"compression": "gzip"}, {"compression": "gzip", "shuffle": True}, {"shuffle": True}])
    )
    values = (np.random.default_rng(0).random(shape) * 100).astype(dtype)
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=values, chunks=chunks, **options)
    start = data.draw(st.integers(0, shape[0] - 1))
    stop = data.draw(st.integers(start, shape[0]))
    with HDF5File(path) as opened:
        column = opened.root.column("a")
        for begin, end in ((start, stop), (0, shape[0]), (start, stop)):
            got = column.read(begin, end)
            assert got.dtype == values.dtype
            assert np.array_equal(got, values[begin:end])


def test_an_empty_array_is_read(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["a"] = np.zeros((0, 3), np.float32)
    with HDF5File(path) as opened:
        assert opened.root.column("a").read().shape == (0, 3)


def test_names_with_numbers_come_in_the_order_of_the_numbers(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for name in ("episode_10", "episode_00009", "episode_2", "episode_x", "episode_", "other", "episode_-1"):
            file.create_group(name)
    with HDF5File(path) as opened:
        assert opened.root.numbered("episode_") == ["episode_2", "episode_00009", "episode_10"]


def test_nested_arrays_are_found_by_their_paths(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["a/b"] = np.zeros(2)
        file["c"] = np.zeros(2)
    with HDF5File(path) as opened:
        assert sorted(opened.root.columns()) == ["a/b", "c"]
        with pytest.raises(FileError, match="too deeply"):
            opened.root.columns(depth=0)


def test_attributes(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["text"], file.attrs["bytes"], file.attrs["number"] = "größer", np.bytes_("abc"), 3
        file.attrs["numbers"], file.attrs["none"], file.attrs["yes"] = [1, 2], h5py.Empty("f4"), True
        file.attrs["empty"] = np.zeros(0, np.int64)
    with HDF5File(path) as opened:
        root = opened.root
        assert (root.text("text"), root.text("bytes"), root.text("missing")) == ("größer", "abc", None)
        assert (root.numbers("number"), root.numbers("numbers"), root.numbers("empty")) == ([3], [1, 2], [])
        assert (root.flag("yes"), root.flag("missing")) == (True, None)
        for read, name in ((root.text, "number"), (root.numbers, "text"), (root.numbers, "none")):
            with pytest.raises(DataError, match="Leave it out"):
                read(name)


def test_sizes_are_added_up_and_counted_once(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for name in "abc":
            file[name] = np.zeros(1000, np.uint8)
    with HDF5File(path, max_bytes=2500) as opened:
        for name in "abab":
            opened.root.column(name)
        with pytest.raises(FileError, match="3,000"):
            opened.root.column("c")


def test_another_filter_is_refused_with_the_way_out(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=np.zeros(100), compression="lzf")
    with HDF5File(path) as opened, pytest.raises(FileError, match="h5repack"):
        opened.root.column("a")


def test_what_is_no_file_of_hdf5(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("nothing")
    for name, message in (("a", "not an HDF5 file"), ("b", "does not exist")):
        with pytest.raises(FileError, match=message):
            HDF5File(tmp_path / name)
