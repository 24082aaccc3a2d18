"""What the hostile files are made of, and the list of them."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.tdmpc2.tiny_tdmpc2 import make_model
from worldline.models.tdmpc2.official import to_official

Make = Callable[[Path], None]
CASES: dict[str, tuple[tuple[str, ...], Make]] = {}
MARKER = "code_was_run"  # what payloads make, in the folder that they are run in


class Payload:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {MARKER}",)


def case(name: str, *readers: str) -> Callable[[Make], Make]:
    def add(make: Make) -> Make:
        assert name not in CASES
        CASES[name] = (readers, make)
        return make

    return add


def write(name: str, readers: tuple[str, ...], content: bytes | Callable[[], bytes]) -> None:
    """Add a case that is a file with `content`."""
    case(name, *readers)(lambda path: path.write_bytes(content if isinstance(content, bytes) else content()) and None)


def zeros_deflated(num_megabytes: int) -> bytes:
    """Return a deflate stream of zeros, made of the same compressed megabyte again and again."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = compressor.compress(bytes(1 << 20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return piece * num_megabytes + compressor.flush(zlib.Z_FINISH)


def bomb(member: str, head: bytes, num_megabytes: int, claimed: int | None = None) -> bytes:
    """Return a zip archive whose only member is `head` and a lot of zeros."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = compressor.compress(head) + compressor.flush(zlib.Z_FULL_FLUSH) + zeros_deflated(num_megabytes)
    size = len(head) + (num_megabytes << 20) if claimed is None else claimed
    return zip_of([(member, data, size, zipfile.ZIP_DEFLATED)])


def zip_of(members: list[tuple[str, bytes, int, int]], *, flags: int = 0, shift: int = 0) -> bytes:
    """Return an archive of (name, bytes, claimed size, method); `shift` moves where the later ones are said to be."""
    body, directory = bytearray(), bytearray()
    for index, (name, data, size, method) in enumerate(members):
        raw = name.encode()
        crc = zlib.crc32(data) if method == zipfile.ZIP_STORED else 0
        common = struct.pack("<HHHHHLLLHH", 20, flags, method, 0, 33, crc, len(data), size, len(raw), 0)
        offset = len(body) - (shift if index else 0)
        directory += b"PK\1\2" + struct.pack("<H", 20) + common + struct.pack("<HHHLL", 0, 0, 0, 0, offset) + raw
        body += b"PK\3\4" + common + raw + data
    count = len(members)
    return bytes(body + directory) + b"PK\5\6" + struct.pack("<4H2LH", 0, 0, count, count, len(directory), len(body), 0)


def npy_header(descr: str, shape: tuple[int, ...], *, fortran: bool = False) -> bytes:
    return npy_text(f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}")


def npy_text(text: str) -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", min(len(text), 65535)) + text.encode()


def npz(**changes: Any) -> bytes:
    """Return a replay file of two episodes with other arrays, or other bytes, in the place of some."""
    arrays: dict[str, Any] = {
        "obs": np.zeros((6, 3), np.float32),
        "actions": np.zeros((6, 2), np.float32),
        "rewards": np.zeros(6, np.float32),
        "dones": np.array([0, 0, 1, 0, 0, 1], np.float32),
        "obs_shape": np.array([3]),
        "action_dim": np.array(2),
        **changes,
    }
    members = []
    for name, value in arrays.items():
        if value is None:
            continue
        if not isinstance(value, bytes):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, value, allow_pickle=True)
            value = buffer.getvalue()
        members.append((f"{name}.npy", value, len(value), zipfile.ZIP_STORED))
    return zip_of(members)


def objects(value: Any) -> np.ndarray[Any, Any]:
    array = np.empty(1, object)
    array[0] = value
    return array


def saved(value: Any, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **settings)
    return buffer.getvalue()


def pt(content: bytes, *, method: int = zipfile.ZIP_STORED, size: int | None = None) -> bytes:
    """Return an archive as `torch.save` writes it, with `content` as its pickle."""
    members = [
        ("archive/data.pkl", content, len(content) if size is None else size, method),
        ("archive/byteorder", b"little", 6, zipfile.ZIP_STORED),
        ("archive/version", b"3\n", 2, zipfile.ZIP_STORED),
    ]
    return zip_of(members)


def official(**changes: Any) -> bytes:
    tensors = {**to_official(make_model()), **{name.replace("__", "."): value for name, value in changes.items()}}
    return saved({"model": tensors})


def safetensors(header: bytes | Mapping[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list[Any], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
