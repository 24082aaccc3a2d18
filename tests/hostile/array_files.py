"""Hostile HDF5 files, zarr folders and folders of columns."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hostile.making import Payload, case, objects, write

OUTSIDE = "/etc/passwd"
STEPS = 6
READER = "buffer"


def hdf5(change: Callable[[h5py.File], Any] | None = None, **arrays: Any) -> bytes:
    """Return a file with an episode of six steps, changed, or with other arrays in the place of some."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        valid: dict[str, Any] = {
            "episode_0/observations/state": np.zeros((STEPS, 3), np.float32),
            "episode_0/actions": np.zeros((STEPS, 2), np.float32),
            "episode_0/rewards": np.zeros(STEPS, np.float32),
            **arrays,
        }
        for name, value in valid.items():
            if value is not None:
                file[name] = value
        if change is not None:
            change(file)
    return content.getvalue()


def linked(name: str, link: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file[name] = link

    return change


def made(name: str, shape: tuple[int, ...], dtype: Any = np.float32, **settings: Any) -> Callable[[h5py.File], Any]:
    """Return what puts an array without numbers into the place of another."""

    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, shape, dtype, **settings)

    return change


def chunked(name: str, shape: tuple[int, ...], content: bytes, **settings: Any) -> Callable[[h5py.File], Any]:
    """Return what puts an array there whose only chunk is `content`, however it was made."""

    def change(file: h5py.File) -> None:
        del file[name]
        dataset = file.create_dataset(name, shape, np.uint8, chunks=shape, compression="gzip", **settings)
        dataset.id.write_direct_chunk((0,) * len(shape), content)

    return change


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((STEPS, 2), np.float32)
    layout[:] = h5py.VirtualSource(OUTSIDE, "actions", (STEPS, 2))
    del file["episode_0/actions"]
    file["episode_0"].create_virtual_dataset("actions", layout)


def many_groups(file: h5py.File) -> None:
    for number in range(1, 3000):
        file[f"episode_{number}"] = file["episode_0"]["observations"]  # hard links to what is no episode


def loop(file: h5py.File) -> None:
    file["episode_0/observations/again"] = file["episode_0/observations"]


def filtered(file: h5py.File) -> None:
    """An array whose filter HDF5 would look for among plugins."""
    del file["episode_0/actions"]
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk((STEPS, 2))
    creation.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (2, 2, 4, 48, 5, 1, 0))
    space = h5py.h5s.create_simple((STEPS, 2))
    dataset = h5py.h5d.create(file["episode_0"].id, b"actions", h5py.h5t.NATIVE_FLOAT, space, creation)
    dataset.write_direct_chunk((0, 0), bytes(8 * STEPS))


def deflated_zeros(num_megabytes: int) -> bytes:
    compressor = zlib.compressobj(9)
    return b"".join(compressor.compress(bytes(1 << 20)) for _ in range(num_megabytes)) + compressor.flush()


def damaged(at: float, flip: int = 0xFF, count: int = 64) -> bytes:
    content = bytearray(hdf5())
    start = int(at * len(content))
    for index in range(start, min(len(content), start + count)):
        content[index] ^= flip
    return bytes(content)


IMAGE = "episode_0/observations/image"
ACTIONS, REWARDS, STATE = "episode_0/actions", "episode_0/rewards", "episode_0/observations/state"
FILES: dict[str, bytes | Callable[[], bytes]] = {
    "an external link to an array": lambda: hdf5(linked(ACTIONS, h5py.ExternalLink(OUTSIDE, "/actions"))),
    "an external link to an episode": lambda: hdf5(linked("episode_0", h5py.ExternalLink("other.h5", "/"))),
    "an external link to the observations": lambda: hdf5(
        linked("episode_0/observations", h5py.ExternalLink(OUTSIDE, "/"))
    ),
    "a soft link out of the episode": lambda: hdf5(linked(ACTIONS, h5py.SoftLink("/episode_0/rewards"))),
    "a soft link to nowhere": lambda: hdf5(linked(STATE, h5py.SoftLink("/nowhere"))),
    "a soft link to itself": lambda: hdf5(linked(ACTIONS, h5py.SoftLink("/episode_0/actions"))),
    "groups in a circle": lambda: hdf5(loop),
    "three thousand groups that are none": lambda: hdf5(many_groups),
    "a virtual array of another file": lambda: hdf5(virtual),
    "numbers in another file": lambda: hdf5(made(ACTIONS, (STEPS, 2), external=[(OUTSIDE, 0, h5py.h5f.UNLIMITED)])),
    "an array of 4 TB": lambda: hdf5(made(STATE, (1 << 20, 1 << 20))),
    "an array of 4 TB in chunks": lambda: hdf5(made(STATE, (1 << 20, 1 << 20), chunks=(1, 1 << 10))),
    "an array of 200 MB that is not there": lambda: hdf5(made(STATE, (STEPS, 200 << 20), np.uint8)),
    "many steps that are not there": lambda: hdf5(made(REWARDS, (40 << 20,))),
    "many steps in chunks that are not there": lambda: hdf5(made(REWARDS, (40 << 20,), chunks=(1 << 16,))),
    "a chunk of 100 MB": lambda: hdf5(made(STATE, (STEPS, 100 << 20), np.uint8, chunks=(1, 100 << 20))),
    "a chunk that inflates to 300 MB": lambda: hdf5(chunked(STATE, (STEPS, 1 << 16), deflated_zeros(300))),
    "a chunk that inflates to 1 GB, shuffled": lambda: hdf5(
        chunked(STATE, (STEPS, 1 << 20), deflated_zeros(1000), shuffle=True)
    ),
    "a chunk that is not gzip": lambda: hdf5(chunked(STATE, (STEPS, 100), b"no gzip" * 10)),
    "a chunk that is cut off": lambda: hdf5(chunked(STATE, (STEPS, 100), zlib.compress(bytes(STEPS * 100))[:-9])),
    "a chunk that is too short": lambda: hdf5(chunked(STATE, (STEPS, 100), zlib.compress(bytes(10)))),
    "300 MB of zeros in gzip": lambda: hdf5(
        made(STATE, (STEPS, 50 << 20), np.uint8, chunks=(1, 1 << 20), compression="gzip", fillvalue=0)
    ),
    "a filter that is a plugin": lambda: hdf5(filtered),
    "text for actions": lambda: hdf5(**{ACTIONS: np.array([b"rm -rf"] * STEPS)}),
    "variable text for actions": lambda: hdf5(**{ACTIONS: ["rm"] * STEPS}),
    "references for actions": lambda: hdf5(made(ACTIONS, (STEPS,), h5py.ref_dtype)),
    "records for actions": lambda: hdf5(**{ACTIONS: np.zeros(STEPS, [("a", "f4"), ("b", "i8")])}),
    "ragged rows": lambda: hdf5(made(STATE, (STEPS,), h5py.vlen_dtype(np.float32))),
    "a pickle for observations": lambda: hdf5(
        **{STATE: np.void(objects(Payload()).dumps())}  # opaque bytes, as some programs keep objects
    ),
    "no actions": lambda: hdf5(**{ACTIONS: None}),
    "no rewards": lambda: hdf5(**{REWARDS: None}),
    "no observations": lambda: hdf5(**{STATE: None}),
    "a group for actions": lambda: hdf5(**{ACTIONS: None, "episode_0/actions/a": np.zeros(STEPS)}),
    "an array for observations": lambda: hdf5(**{STATE: None, "episode_0/observations": np.zeros(STEPS)}),
    "a number for rewards": lambda: hdf5(**{REWARDS: 3.0}),
    "nothing for rewards": lambda: hdf5(**{REWARDS: h5py.Empty("f4")}),
    "actions of another length": lambda: hdf5(**{ACTIONS: np.zeros((5, 2))}),
    "an episode of no steps": lambda: hdf5(**{name: np.zeros((0, 2)) for name in (ACTIONS, STATE, REWARDS)}),
    "NaN in an observation": lambda: hdf5(**{STATE: np.full((STEPS, 3), np.nan)}),
    "the same episode twice": lambda: hdf5(lambda file: linked("episode_00", file["episode_0"])(file)),
    "an index of actions beyond all": lambda: hdf5(**{ACTIONS: np.full(STEPS, 1 << 40)}),
    "a negative index of actions": lambda: hdf5(**{ACTIONS: np.full(STEPS, -1)}),
    "meta that is no JSON": lambda: hdf5(lambda file: file["episode_0"].attrs.create("meta", "{" * 50_000)),
    "meta that is a number": lambda: hdf5(lambda file: file["episode_0"].attrs.create("meta", 7)),
    "language that is a pickle": lambda: hdf5(
        lambda file: file["episode_0"].attrs.create("language", np.void(b"cposix\nsystem\n(S'touch code_was_run'\ntR."))
    ),
    "a language of 5 MB": lambda: hdf5(lambda file: file["episode_0"].attrs.create("language", "x" * (5 << 20))),
    "flags that are text": lambda: hdf5(lambda file: file["episode_0"].attrs.create("terminated", "yes")),
    "a format of the future": lambda: hdf5(lambda file: file.attrs.create("worldline_format", 99)),
    "action sizes that do not fit": lambda: hdf5(
        lambda file: [file.attrs.create(*pair) for pair in (("worldline_format", 1), ("action_sizes", [1 << 40]))]
    ),
    "an observation with a slash in its heart": lambda: hdf5(**{"episode_0/observations/a/b/c/d": np.zeros(STEPS)}),
    "an observation that cannot be printed": lambda: hdf5(**{"episode_0/observations/\x1b[31m": np.zeros(STEPS)}),
    "robomimic with an external link": lambda: hdf5(
        linked("data/demo_0", h5py.ExternalLink(OUTSIDE, "/")), **dict.fromkeys((ACTIONS, REWARDS, STATE))
    ),
    "robomimic without actions": lambda: hdf5(
        **{**dict.fromkeys((ACTIONS, REWARDS, STATE)), "data/demo_0/obs/state": np.zeros((STEPS, 3))}
    ),
    "D4RL of other lengths": lambda: hdf5(
        **dict.fromkeys((ACTIONS, REWARDS, STATE)),
        observations=np.zeros((9, 2)),
        actions=np.zeros((9, 2)),
        rewards=np.zeros(8),
        terminals=np.zeros(9),
    ),
    "D4RL with a virtual array": lambda: hdf5(
        made("observations", (9, 1 << 30)),
        **dict.fromkeys((ACTIONS, REWARDS, STATE)),
        observations=np.zeros((9, 2)),
        actions=np.zeros((9, 2)),
        rewards=np.zeros(9),
        terminals=np.zeros(9),
    ),
    "an HDF5 file of nothing known": lambda: hdf5(**dict.fromkeys((ACTIONS, REWARDS, STATE)), weights=np.zeros(4)),
    "an HDF5 file cut in half": lambda: hdf5()[: len(hdf5()) // 2],
    "an HDF5 file of its first bytes": lambda: hdf5()[:8],
    "an HDF5 file that ends early": lambda: hdf5()[:-40],
    "an HDF5 header that is broken": lambda: damaged(0.002, count=24),
    "HDF5 groups that are broken": lambda: damaged(0.1, count=400),
    "an HDF5 file of noise": lambda: hdf5()[:100] + np.random.default_rng(0).bytes(4000),
}
for name, content in FILES.items():
    write(name, (READER,), content)


# --- folders -------------------------------------------------------------------


def zarr_array(folder: Path, shape: tuple[int, ...], chunk: bytes | None = None, **header: Any) -> None:
    folder.mkdir(parents=True)
    described = {
        "zarr_format": 2,
        "shape": shape,
        "chunks": shape,
        "dtype": "<f4",
        "order": "C",
        "fill_value": 0,
        "filters": None,
        "compressor": None,
        **header,
    }
    (folder / ".zarray").write_text(json.dumps(described))
    if chunk is not None:
        (folder / ".".join(["0"] * len(shape))).write_bytes(chunk)


def zarr(path: Path, name: str = "data/state", shape: tuple[int, ...] = (STEPS, 3), **changes: Any) -> None:
    """Make a folder of zarr with two episodes, one of its arrays another one."""
    zarr_array(path / "data" / "action", (STEPS, 2))
    zarr_array(path / "data" / "state", (STEPS, 3))
    zarr_array(path / "meta" / "episode_ends", (2,), np.array([4, 6]).tobytes(), dtype="<i8")
    shutil.rmtree(path / name)
    zarr_array(path / name, shape, **changes)


BLOSC = b"\2\1\1\4" + struct.pack("<3I", 1 << 31, 1 << 20, 40) + bytes(24)
ZARRS: dict[str, dict[str, Any]] = {
    "zarr with pickled objects": {"dtype": "|O", "filters": [{"id": "pickle", "protocol": 5}]},
    "zarr with pickled chunks": {
        "compressor": {"id": "pickle"},
        "chunk": b"cposix\nsystem\n(S'touch code_was_run'\ntR.",
    },
    "zarr with a filter": {"filters": [{"id": "vlen-utf8"}]},
    "zarr of 4 TB": {"shape": (1 << 40, 1), "chunks": (1 << 10, 1)},
    "zarr of 100 MB in a chunk": {"shape": (STEPS, 25 << 20), "chunks": (STEPS, 25 << 20)},
    "zarr that inflates to 300 MB": {"compressor": {"id": "zlib", "level": 1}, "chunk": deflated_zeros(300)},
    "zarr of 2 GB in blosc": {"compressor": {"id": "blosc"}, "chunk": BLOSC},
    "zarr of noise in blosc": {
        "compressor": {"id": "blosc"},
        "chunk": b"\2\1\1\4" + struct.pack("<3I", 72, 72, 50) + b"\xff" * 34,
    },
    "zarr of 4 GB in lz4": {"compressor": {"id": "lz4"}, "chunk": b"\xff\xff\xff\xff" + bytes(30)},
    "zarr of noise in lz4": {"compressor": {"id": "lz4"}, "chunk": struct.pack("<I", 72) + b"\xff" * 30},
    "zarr of noise in zstd": {"compressor": {"id": "zstd"}, "chunk": b"\x28\xb5\x2f\xfd" + b"\xff" * 30},
    "zarr with a chunk that is too short": {"chunk": bytes(8)},
    "zarr with a chunk that is too long": {"chunk": bytes(1 << 20)},
    "zarr with negative sizes": {"shape": (-1, 3)},
    "zarr with sizes of text": {"chunks": ["a", 3]},
    "zarr with chunks of none": {"chunks": (0, 3)},
    "zarr in format 3": {"zarr_format": 3},
    "zarr with a long header": {"comment": "x" * (1 << 20)},
    "zarr with a fill value of a list": {"fill_value": [1]},
}
for name, changes in ZARRS.items():
    case(name, READER)(lambda path, changes=changes: zarr(path, **changes))  # type: ignore[misc]


@case("zarr with a link to elsewhere", READER)
def _(path: Path) -> None:
    zarr(path)
    shutil.rmtree(path / "data" / "state")
    zarr_array(path.with_name(f"{path.name}_outside"), (STEPS, 3))
    (path / "data" / "state").symlink_to(path.with_name(f"{path.name}_outside"))


@case("zarr with a chunk that is a link", READER)
def _(path: Path) -> None:
    zarr(path)
    (path / "data" / "state" / "0.0").symlink_to(OUTSIDE)


@case("zarr whose ends go back", READER)
def _(path: Path) -> None:
    zarr(path, "meta/episode_ends", (2,), dtype="<i8", chunk=np.array([4, 2]).tobytes())


def columns(path: Path, **changes: Any) -> None:
    """Make a folder of columns, its manifest changed."""
    from data.test_columns import write as write_valid

    write_valid(path)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | changes))


COLUMNS: dict[str, dict[str, Any]] = {
    "columns elsewhere": {"columns": {"../../../../etc/passwd": {"shape": [1], "dtype": "<f4"}}},
    "columns of objects": {"columns": {"obs": {"shape": [3], "dtype": "|O"}}},
    "columns of a PB": {"num_rows": 1 << 40},
    "columns with a row of 4 GB": {"columns": {"obs": {"shape": [1 << 30], "dtype": "<f4"}}},
    "columns of nothing": {"columns": None},
    "columns in a list": {"columns": []},
    "columns with a million action sizes": {"action_sizes": [2] * 50_000},
}
for name, changes in COLUMNS.items():
    case(name, READER, "dataset")(lambda path, changes=changes: columns(path, **changes))  # type: ignore[misc]


@case("columns with a link to elsewhere", READER, "dataset")
def _(path: Path) -> None:
    columns(path)
    (path / "rewards.npy").unlink()
    (path / "rewards.npy").symlink_to(OUTSIDE)


@case("columns with an index of noise", READER, "dataset")
def _(path: Path) -> None:
    columns(path)
    content = (path / "episodes.npy").read_bytes()
    (path / "episodes.npy").write_bytes(content[:192] + b"\x7f" * (len(content) - 192))


@case("columns with meta of brackets", READER)
def _(path: Path) -> None:
    columns(path)
    (path / "meta.jsonl").write_text("[" * 100_000)


def lerobot(path: Path, content: Callable[[], bytes] | None = None, **info: Any) -> None:
    """Make a folder of LeRobot with one table, changed."""
    import pyarrow as pa
    from pyarrow import parquet

    (path / "meta").mkdir(parents=True)
    (path / "data" / "chunk-000").mkdir(parents=True)
    features = {"observation.state": {"dtype": "float32"}, "action": {"dtype": "float32"}}
    described = {"codebase_version": "v3.0", "features": features, **info}
    (path / "meta" / "info.json").write_text(json.dumps(described))
    rows = pa.array([[0.0, 1.0]] * STEPS)
    file = path / "data" / "chunk-000" / "file-000.parquet"
    table = pa.table({"observation.state": rows, "action": rows, "episode_index": [0] * STEPS})
    parquet.write_table(table, file)
    if content is not None:
        file.write_bytes(content())


def parquet_of(**columns: Any) -> Callable[[], bytes]:
    def content() -> bytes:
        import pyarrow as pa
        from pyarrow import parquet

        rows = pa.array([[0.0, 1.0]] * STEPS)
        valid = {"observation.state": rows, "action": rows, "episode_index": pa.array([0] * STEPS)}
        stream = io.BytesIO()
        parquet.write_table(pa.table({name: value() for name, value in columns.items()} or valid), stream)
        return stream.getvalue()

    return content


def repeated(count: int) -> Callable[[], Any]:
    """Return a column of one number, which takes a few bytes however long it is."""

    def column() -> Any:
        import pyarrow as pa

        return pa.repeat(pa.scalar(0.0), count)

    return column


def texts(value: Any) -> Callable[[], Any]:
    def column() -> Any:
        import pyarrow as pa

        return pa.array([value] * STEPS)

    return column


LONG = 20 << 20
TABLES: dict[str, dict[str, Any]] = {
    "parquet of noise": {"content": lambda: b"PAR1" + bytes(range(256)) * 8 + b"PAR1"},
    "parquet cut in half": {"content": lambda: parquet_of()()[: len(parquet_of()()) // 2]},
    "parquet with a footer of 2 GB": {"content": lambda: parquet_of()()[:-8] + struct.pack("<I", 2 << 30) + b"PAR1"},
    "parquet with a broken footer": {
        "content": lambda: (whole := parquet_of()())[:-300] + b"\xff" * 200 + whole[-100:]
    },
    "parquet without actions": {"content": parquet_of(**{"observation.state": texts(0.0), "episode_index": texts(0)})},
    "parquet of text": {
        "content": parquet_of(**{"observation.state": texts("rm"), "action": texts(0.0), "episode_index": texts(0)})
    },
    "parquet of ragged rows": {
        "content": parquet_of(
            **{"observation.state": texts([1.0]), "action": texts([[1.0], [2.0, 3.0]]), "episode_index": texts(0)}
        )
    },
    "parquet with holes": {
        "content": parquet_of(**{"observation.state": texts(None), "action": texts(0.0), "episode_index": texts(0)})
    },
    "parquet of 20 million rows in a few bytes": {
        "content": lambda: parquet_of(
            **dict.fromkeys(("observation.state", "action", "episode_index"), repeated(LONG))
        )()
    },
    "lerobot of the future": {"codebase_version": "v9.0"},
    "lerobot without features": {"features": None},
    "lerobot with features of numbers": {"features": {"observation.state": 3}},
    "lerobot with a path as a key": {"features": {"observation.../../etc/passwd": {"dtype": "float32"}}},
    "lerobot with a long header": {"comment": "x" * (17 << 20)},
}
for name, changes in TABLES.items():
    case(name, READER)(lambda path, changes=changes: lerobot(path, **changes))  # type: ignore[misc]


def lerobot_video(path: Path, content: bytes, rows: int = STEPS, **info: Any) -> Path:
    """Make a folder of LeRobot with one video; return the video."""
    key = "observation.image"
    camera = {"dtype": "video", "shape": [16, 16, 3], "names": ["height", "width", "channels"]}
    features = {"observation.state": {"dtype": "float32"}, key: camera}
    place = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    lerobot(path, **{"codebase_version": "v2.1", "fps": 10, "video_path": place, "features": features} | info)
    (path / "meta" / "episodes.jsonl").write_text(json.dumps({"episode_index": 0, "length": rows}))
    video = path / "videos" / "chunk-000" / key / "episode_000000.mp4"
    video.parent.mkdir(parents=True)
    video.write_bytes(content)
    return video


def picture_feature(*shape: int) -> dict[str, Any]:
    return {"observation.image": {"dtype": "video", "shape": shape}, "observation.state": {"dtype": "float32"}}


def minari(path: Path, row: bytes, *, size: int = 32, rows: int = STEPS + 1) -> None:
    """Make a data set of Minari whose pictures are all the same bytes."""

    def fill(file: h5py.File) -> None:
        del file["episode_0/observations"]
        pictures = file.create_dataset("episode_0/observations", (rows,), h5py.vlen_dtype(np.uint8))
        pictures[:] = [np.frombuffer(row, np.uint8)] * rows
        for key in ("terminations", "truncations"):
            file[f"episode_0/{key}"] = np.zeros(STEPS, bool)

    path.mkdir()
    (path / "main_data.hdf5").write_bytes(hdf5(fill))
    space = {"type": "Box", "dtype": "uint8", "shape": [size, size, 3]}
    (path / "metadata.json").write_text(json.dumps({"observation_space": space, "jpeg_encoding": True}))


# A JPEG whose header claims 65,500 x 65,500 pixels, and which has none.
LARGE_JPEG = b"\xff\xd8\xff\xc0\x00\x11\x08" + b"\xff\xdc" * 2 + b"\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01\xff\xd9"
case("minari with pictures of noise", READER)(lambda path: minari(path, bytes(range(256))))
case("minari with a picture of 4 billion pixels", READER)(lambda path: minari(path, LARGE_JPEG))
case("minari with more pictures than it can hold", READER)(lambda path: minari(path, LARGE_JPEG, size=3000, rows=20))


PLAYLIST = f"ffconcat version 1.0\nfile {OUTSIDE}\n".encode()
VIDEOS: dict[str, dict[str, Any]] = {
    "video of noise": {"content": bytes(range(256)) * 8},
    "video that is a playlist": {"content": PLAYLIST},
    "video that is a stream of the network": {"content": b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n"},
    "video with a box of 4 GB": {"content": b"\0\0\0\x18ftypisom" + bytes(12) + b"\xff\xff\xff\xffmoov"},
    "video in another place": {"content": b"", "video_path": "{video_key.__class__}/etc/passwd"},
    "pictures of a terabyte": {"content": b"", "features": picture_feature(1 << 20, 1 << 20, 3)},
    "pictures of nothing": {"content": b"", "features": picture_feature(0, -1, 3)},
    "pictures that take more than the video can hold": {
        "content": bytes(1000),
        "features": picture_feature(3000, 3500, 3)
        | {"observation.b": picture_feature(3000, 3500, 3)["observation.image"]},
    },
    "no frames a second": {"content": b"", "fps": 0},
    "episodes in folders of zero": {"content": b"", "chunks_size": 0},
}
for name, changes in VIDEOS.items():
    case(f"lerobot with {name}", READER)(lambda path, changes=changes: lerobot_video(path, **changes))  # type: ignore[misc]


@case("lerobot with a video elsewhere", READER)
def _(path: Path) -> None:
    video = lerobot_video(path, b"")
    video.unlink()
    video.symlink_to(OUTSIDE)


@case("lerobot with a link to elsewhere", READER)
def _(path: Path) -> None:
    lerobot(path)
    file = path / "data" / "chunk-000" / "file-000.parquet"
    file.unlink()
    file.symlink_to(OUTSIDE)
