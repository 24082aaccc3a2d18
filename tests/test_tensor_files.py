"""Safetensors files: what cannot be read is not written, what claims too much is not read."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from torch import nn

from worldline import tensor_files
from worldline.errors import DataError, FileError
from worldline.tensor_files import check_tensors, read_tensors, write_tensors


def test_round_trip_of_tensors_that_share_memory(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    tensors = {"a": base, "b": base[2:4], "c": base.view(2, 3).T, "d": torch.tensor(True), "e": torch.zeros(0, 3)}
    write_tensors(tmp_path / "x", tensors)
    found = read_tensors(tmp_path / "x")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_a_file_that_could_not_be_read_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_files, "_MAX_TENSORS", 2)
    write_tensors(tmp_path / "x", dict.fromkeys("ab", torch.zeros(1)))
    with pytest.raises(DataError, match=r"3 tensors are more than a file may hold, 2. Stack some"):
        write_tensors(tmp_path / "y", dict.fromkeys("abc", torch.zeros(1)))
    assert not (tmp_path / "y").exists()
    monkeypatch.setattr(tensor_files, "_MAX_HEADER_BYTES", 100)
    with pytest.raises(DataError, match=r"The names of 1 tensors take \d+ bytes. Shorten them"):
        write_tensors(tmp_path / "z", {"a" * 100: torch.zeros(1)})


def test_a_file_that_claims_too_much_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tensors(tmp_path / "x", dict.fromkeys("abc", torch.zeros(1)))
    monkeypatch.setattr(tensor_files, "_MAX_TENSORS", 2)
    with pytest.raises(FileError, match=r"claims 3 tensors, more than 2. Do this"):
        read_tensors(tmp_path / "x", remedy="Do this.")
    monkeypatch.setattr(tensor_files, "_MAX_HEADER_BYTES", 100)
    with pytest.raises(FileError, match=r"its header claims \d+ bytes"):
        read_tensors(tmp_path / "x")


def test_what_is_no_file_of_tensors(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}).encode()
    for content in (b"", b"\0" * 7, b"\0" * 8, struct.pack("<Q", 2) + b"[]", struct.pack("<Q", len(header)) + header):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(FileError, match=r"is not a safetensors file.*Restore it"):
            read_tensors(tmp_path / "x")
    with pytest.raises(FileError, match="Cannot read"):
        read_tensors(tmp_path / "nothing")
    with pytest.raises(FileError, match="not a regular file"):
        read_tensors(tmp_path)


def test_a_full_disk_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file or directory"):
        write_tensors(tmp_path / "nowhere" / "x", {"a": torch.zeros(1)})


def test_tensors_of_another_model_are_refused() -> None:
    model = nn.Linear(2, 3)
    own = model.state_dict()
    check_tensors(model, {name: tensor.half() for name, tensor in own.items()}, where="it")
    for tensors, message in (
        ({"weight": own["weight"]}, r"it lacks the tensor 'bias' of shape \(3,\). Do this"),
        ({**own, "bias": torch.zeros(2)}, r"it: 'bias' is torch.float32 of shape \(2,\), the model's is"),
        ({**own, "bias": torch.zeros(3, dtype=torch.int64)}, "'bias' is torch.int64"),
        ({**own, "more": torch.zeros(1)}, "does not know: more. Do this"),
    ):
        with pytest.raises(DataError, match=message):
            check_tensors(model, tensors, where="it", remedy="Do this.")
