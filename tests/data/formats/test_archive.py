"""Hostile and damaged archives: each is refused by name, with a fix, and without taking memory."""

from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.data.buffer import ReplayBuffer
from worldline.data.formats.archive import Archive
from worldline.data.synthetic import create_random_buffer
from worldline.errors import FileError, WorldlineError

MEMORY_LIMIT = 64 << 20


def npy(array: np.ndarray) -> bytes:
    """Return an array as the bytes of a `.npy` file."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array)
    return stream.getvalue()


def header(text: str, *, version: int = 1) -> bytes:
    """Return the beginning of a `.npy` file with any header at all."""
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode("latin1")


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip archive of the documented keys, with `members` instead of or next to them."""
    steps = 10
    arrays = {
        "obs.npy": npy(np.zeros((steps, 4), np.float32)),
        "actions.npy": npy(np.zeros((steps, 2), np.float32)),
        "rewards.npy": npy(np.zeros(steps, np.float32)),
        "dones.npy": npy(np.zeros(steps, np.float32)),
        "obs_shape.npy": npy(np.array([4])),
        "action_dim.npy": npy(np.array(2)),
    }
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        for name, content in (arrays | members).items():
            file.writestr(name, content)
    return stream.getvalue()


def with_obs(content: bytes) -> bytes:
    return archive({"obs.npy": content})


def with_obs_header(text: str, **keywords: int) -> bytes:
    return with_obs(header(text, **keywords) + bytes(160))


def patched(content: bytes, old: bytes, new: bytes, count: int = 1) -> bytes:
    assert old in content
    return content.replace(old, new, count)


def patched_directory(offset: int, new: bytes) -> bytes:
    """Return the archive with bytes of the entry of `obs` in the table of contents replaced."""
    content = bytearray(archive({}))
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"obs.npy"))
    content[entry + offset : entry + offset + len(new)] = new
    return bytes(content)


def patched_end(offset: int, new: bytes) -> bytes:
    content = bytearray(archive({}))
    at = len(content) - 22 + offset
    content[at : at + len(new)] = new
    return bytes(content)


def with_64_bit_end(directory_bytes: int) -> bytes:
    """Return the archive with a 64-bit end record that says how long the table of contents is."""
    content = archive({})
    start = struct.unpack("<L", content[-6:-2])[0]
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 6, 6, directory_bytes, start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(content) - 22, 1)
    return content[:-22] + record + locator + content[-22:]


def duplicate() -> bytes:
    stream = io.BytesIO(archive({}))
    with zipfile.ZipFile(stream, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("obs.npy", npy(np.ones((10, 4), np.float32)))
    return stream.getvalue()


SHAPE = "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }"

CORPUS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "empty"),
    "text": (lambda: b"obs,actions\n1,2\n", "something else"),
    "pickle": (lambda: pickle.dumps([1, 2, 3]), "pickle"),
    "single array": (lambda: npy(np.zeros(3)), r"single \.npy"),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "empty archive": (lambda: b"PK\x05\x06" + bytes(18), "empty archive"),
    "cut in half": (lambda: archive({})[: len(archive({})) // 2], "cut off"),
    "last byte lost": (lambda: archive({})[:-1], "cut off"),
    "bytes after the end": (lambda: archive({}) + b"x", "cut off"),
    "bytes before the start": (lambda: b"PK\x03\x04" + archive({}), "broken table"),
    "comment": (lambda: archive({})[:-2] + b"\x05\0hello", "cut off"),
    "huge table of contents": (lambda: patched_end(12, struct.pack("<L", 2**31)), "table of contents of 2,147,483,648"),
    "table elsewhere": (lambda: patched_end(16, struct.pack("<L", 0)), "broken table"),
    "64-bit table size": (lambda: with_64_bit_end(2**40), "table of contents of 1,099"),
    "64-bit table elsewhere": (lambda: with_64_bit_end(7), "broken table"),
    "pickled objects": (lambda: with_obs(npy(np.array([{}, []], dtype=object))), "holds Python objects"),
    "structured dtype": (lambda: with_obs(npy(np.zeros(10, [("a", "f4")]))), "expected plain numbers"),
    "structured dtype with objects": (lambda: with_obs(npy(np.zeros(10, [("a", "O")]))), "expected plain numbers"),
    "text dtype": (lambda: with_obs(npy(np.array(["a"] * 10))), "expected plain numbers"),
    "complex dtype": (lambda: with_obs(npy(np.zeros(10, complex))), "expected plain numbers"),
    "long double": (lambda: with_obs(npy(np.zeros(10, np.longdouble))), "expected plain numbers"),
    "unknown dtype": (lambda: with_obs_header("{'descr': '<q9', 'fortran_order': False, 'shape': (1,)}"), "dtype"),
    "path upwards": (lambda: archive({"../evil.npy": npy(np.zeros(1))}), "plain names"),
    "absolute path": (lambda: archive({"/etc/passwd": b"x"}), "plain names"),
    "backslashes": (lambda: patched(archive({"a!b.npy": b"x"}), b"a!b", b"a\\b", 2), "plain names"),
    "hidden name": (lambda: archive({".npy": b"x"}), "plain names"),
    "duplicate member": (duplicate, "twice"),
    "key with and without suffix": (lambda: archive({"obs": npy(np.zeros(1))}), "twice"),
    "encrypted": (lambda: patched_directory(8, b"\x01\0"), "encrypted"),
    "bzip2": (lambda: archive({}, zipfile.ZIP_BZIP2), "compressed in a way"),
    "lzma": (lambda: archive({}, zipfile.ZIP_LZMA), "compressed in a way"),
    "unknown compression": (lambda: patched_directory(10, b"\x63\0"), "compressed in a way"),
    "wrong checksum": (lambda: patched_directory(16, b"\xde\xad\xbe\xef"), "CRC"),
    "stored sizes disagree": (lambda: patched_directory(24, struct.pack("<L", 2**31)), "contradict"),
    "member beyond the end": (lambda: patched_directory(42, struct.pack("<L", 2**31)), "reach beyond|overlap"),
    "member inside another": (
        lambda: patched_directory(42, struct.pack("<L", archive({}).index(b"PK\x03\x04", 4) + 4)),
        "overlaps another member",
    ),
    "name differs in the member": (lambda: patched(archive({}), b"obs.npy", b"abs.npy"), "cannot be read"),
    "not an array": (lambda: with_obs(b"hello"), "does not start as one"),
    "no bytes at all": (lambda: with_obs(b""), "does not start as one"),
    "unknown version": (lambda: with_obs_header(SHAPE % "(10, 4)", version=9), "does not start as one"),
    "header length of 4 GB": (lambda: with_obs(b"\x93NUMPY\x02\0\xff\xff\xff\xff" + bytes(100)), "4,294,967,295 bytes"),
    "header cut off": (lambda: with_obs(b"\x93NUMPY\x01\0\xff\x0f{"), "ends too early"),
    "header length cut off": (lambda: with_obs(b"\x93NUMPY\x01\0\xff"), "not a .npy"),
    "header is code": (lambda: with_obs_header("__import__('os').getcwd()"), "not a Python literal"),
    "header nested": (lambda: with_obs_header("(" * 4000), "not a Python literal"),
    "header is a list": (lambda: with_obs_header("[1]"), "other fields"),
    "header with more": (
        lambda: with_obs_header("{'descr': '<f4', 'fortran_order': False, 'shape': (), 'x': 1}"),
        "fields",
    ),
    "order is no flag": (
        lambda: with_obs_header("{'descr': '<f4', 'fortran_order': 3, 'shape': (10, 4)}"),
        "fortran_order",
    ),
    "negative size": (lambda: with_obs_header(SHAPE % "(-10, -4)"), "tuple of sizes"),
    "fractional size": (lambda: with_obs_header(SHAPE % "(10.0, 4)"), "tuple of sizes"),
    "boolean size": (lambda: with_obs_header(SHAPE % "(True, 40)"), "tuple of sizes"),
    "absurd size": (lambda: with_obs_header(SHAPE % f"({10**3000},)"), "more elements"),
    "absurd product": (lambda: with_obs_header(SHAPE % str((2**40,) * 30)), "more elements"),
    "too many axes": (lambda: with_obs_header(SHAPE % str((1,) * 40)), "tuple of sizes"),
    "more declared than there": (lambda: with_obs_header(SHAPE % "(1000000000, 4)"), "declares shape"),
    "less declared than there": (lambda: with_obs_header(SHAPE % "(1, 4)"), "declares shape"),
    "scalar columns": (lambda: with_obs(npy(np.float32(1))), r"obs has shape \(\)"),
}


@pytest.mark.parametrize("name", CORPUS)
def test_corpus(tmp_path: Path, name: str) -> None:
    make, message = CORPUS[name]
    path = tmp_path / "data.npz"
    path.write_bytes(make())
    with pytest.raises(WorldlineError, match=message) as caught:
        ReplayBuffer.load(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600


def test_the_corpus_starts_from_a_good_file(tmp_path: Path) -> None:
    """Otherwise the corpus could be refused for what its cases have in common."""
    for name, content in {
        "plain": archive({}),
        "deflated": archive({}, zipfile.ZIP_DEFLATED),
        "version 2": with_obs_header(SHAPE % "(10, 4)", version=2),
        "64-bit end": with_64_bit_end(struct.unpack("<L", archive({})[-10:-6])[0]),
    }.items():
        path = tmp_path / f"{name}.npz"
        path.write_bytes(content)
        assert len(ReplayBuffer.load(path)) == 10, name


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "cartpole.npz").write_bytes(b"")
    with pytest.raises(FileError, match=r"Did you mean 'cartpole\.npz'"):
        ReplayBuffer.load(tmp_path / "cartpol.npz")
    with pytest.raises(FileError, match="neither does the folder"):
        ReplayBuffer.load(tmp_path / "nowhere" / "data.npz")
    with pytest.raises(FileError, match=r"has no \.npy files"):
        ReplayBuffer.load(tmp_path / "data.npy")
    with pytest.raises(FileError, match="a folder"):
        ReplayBuffer.load(tmp_path)


def test_large_column_major_arrays_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldline.data.formats.archive._MAX_FORTRAN_BYTES", 100)
    (tmp_path / "data.npz").write_bytes(with_obs(npy(np.zeros((10, 4), np.float32, order="F"))))
    with pytest.raises(FileError, match=r"np\.ascontiguousarray\(obs\)"):
        ReplayBuffer.load(tmp_path / "data.npz")


@pytest.fixture(scope="module")
def good_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "good.npz"
    buffer = create_random_buffer(100, {"a": (2,), "b": (2, 2, 3)}, 2, num_episodes=3, episode_length=5)
    buffer.save(path, compress=True)
    return path


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_damage_is_refused_or_harmless(good_file: Path, data: st.DataObject) -> None:
    """Bytes flipped, cut out or doubled anywhere: a WorldlineError, or exactly the data that were saved."""
    content = bytearray(good_file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "double"]))
        if kind == "flip":
            content[at] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            del content[at : at + data.draw(st.integers(1, 50))]
        else:
            content[at:at] = content[at : at + data.draw(st.integers(1, 50))]
        if not content:
            break
    path = good_file.with_name("damaged.npz")
    path.write_bytes(bytes(content))
    try:
        loaded = ReplayBuffer.load(path)
    except WorldlineError:
        return
    expected = ReplayBuffer.load(good_file)
    assert (loaded.sample(4, 6).rewards == expected.sample(4, 6).rewards).all()


MEASURE = """
import json, resource, sys
import numpy as np
from worldline.data.buffer import ReplayBuffer
from worldline.errors import WorldlineError
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))
before, message = peak(), "loaded"
try:
    ReplayBuffer.load(sys.argv[1])
except WorldlineError as error:
    message = str(error)
print(json.dumps([peak() - before, message]))
"""


def write_zeros(path: Path, megabytes: int, *, last: float = 0.0, declared_rows: int | None = None) -> None:
    """Write a well-compressed file with that many megabytes of observations, of 4 KB each."""
    rows = declared_rows or (megabytes << 20) // 4096
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, shape in (("actions", (rows, 2)), ("rewards", (rows,)), ("dones", (rows,))):
            file.writestr(f"{name}.npy", npy(np.zeros(shape, np.float32)))
        file.writestr("obs_shape.npy", npy(np.array([1024])))
        file.writestr("action_dim.npy", npy(np.array(2)))
        with file.open("obs.npy", "w", force_zip64=True) as stream:
            stream.write(header(SHAPE % str((rows, 1024))))
            for _ in range(megabytes - 1):
                stream.write(bytes(1 << 20))
            stream.write(bytes((1 << 20) - 4) + np.array([last], "<f4").tobytes())


def write_lie(path: Path) -> None:
    """Write a file whose table of contents and array header agree on 10 rows, while 300 MB are deflated there."""
    write_zeros(path, 300, declared_rows=10)
    content = bytearray(path.read_bytes())
    size_at = content.rindex(b"PK\x01\x02") + 24
    content[size_at : size_at + 4] = struct.pack("<L", len(header(SHAPE % "(10, 1024)")) + 10 * 4096)
    path.write_bytes(bytes(content))


def many_members(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for number in range(20_000):
            file.writestr(f"{number}.npy", b"")


def cut(path: Path) -> None:
    np.savez(path, obs=np.zeros((100_000, 256), np.float32))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1000)


HEAVY: dict[str, tuple[Callable[[Path], object], str]] = {
    "bomb": (lambda path: write_zeros(path, 600), "its arrays would take"),
    "NaN in the last of 200 MB": (lambda path: write_zeros(path, 200, last=np.nan), "obs has nan in row 51199"),
    "sizes that lie": (write_lie, "CRC"),
    "20,000 members": (many_members, "table of contents of"),
    "100 MB cut off": (cut, "cut off"),
    "pickled objects": (
        lambda path: np.savez(path, obs=np.array([bytes(1000)] * 10_000, dtype=object), actions=np.zeros(1)),
        "lacks rewards",
    ),
}


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("name", HEAVY)
def test_refusing_takes_next_to_no_memory(tmp_path: Path, name: str) -> None:
    make, message = HEAVY[name]
    path = tmp_path / "data.npz"
    make(path)
    command = [sys.executable, "-c", MEASURE, str(path)]
    extra, got = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert message in got
    assert extra < MEMORY_LIMIT, f"{extra >> 20} MB"


def test_well_compressed_data_load(tmp_path: Path) -> None:
    """A legitimate file that inflates a hundredfold, and the override for one beyond the limit."""
    path = tmp_path / "data.npz"
    write_zeros(path, 100)
    assert path.stat().st_size < 1 << 20
    assert len(ReplayBuffer.load(path)) == 25_600
    with pytest.raises(FileError, match="max_bytes="):
        ReplayBuffer.load(path, max_bytes=1 << 20)


def test_limit_can_be_lifted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldline.data.formats.recording.FREE_BYTES", 1000)
    path = tmp_path / "data.npz"
    write_zeros(path, 4)
    with pytest.raises(FileError, match="trust the file") as caught:
        ReplayBuffer.load(path)
    named = int(str(caught.value).rpartition("max_bytes=")[2].rstrip("."))
    assert len(ReplayBuffer.load(path, max_bytes=2 * named)) == 1024


def test_archive_lists_and_reads_arrays(tmp_path: Path) -> None:
    np.savez_compressed(
        tmp_path / "a.npz", x=np.arange(6).reshape(2, 3), y=np.asfortranarray(np.arange(6).reshape(3, 2))
    )
    with Archive(tmp_path / "a.npz") as opened:
        assert opened.keys == ["x", "y"]
        for key, shape in (("x", (2, 3)), ("y", (3, 2))):
            member = opened.member(key)
            np.testing.assert_array_equal(opened.read(member), np.arange(6).reshape(shape))
            np.testing.assert_array_equal(
                np.concatenate(list(opened.runs(member, [1] * shape[0]))), opened.read(member)
            )
