"""Weights written in parts, and read by those who trust them only."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from training import ranked
from training.rank_pool import RankPool
from worldline.errors import ConfigError, FileError
from worldline.training.dcp import load_weights


@pytest.mark.parametrize(("strategy", "num_ranks"), [("fsdp", 2), ("ddp", 2), ("ddp", 1)])
def test_parts_of_any_number_of_processes_make_a_whole_model(
    ranks: RankPool, tmp_path: Path, strategy: str, num_ranks: int
) -> None:
    folder = tmp_path / "weights"
    results = ranks.run(ranked.save_parts, num_ranks, folder=folder, strategy=strategy)
    assert (results[0]["shapes"] != results[-1]["shapes"]) == (strategy == "fsdp")  # seven rows are four and three
    assert all("is there already" in result["message"] for result in results)
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
    model = ranked.MaskedModel(seed=5)
    load_weights(model, folder, trusted=True)
    for name, tensor in model.state_dict().items():
        assert np.array_equal(tensor.numpy(), results[0]["state"][name]), name


class Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_nothing_is_read_that_is_not_trusted(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / ".metadata").write_bytes(pickle.dumps(Harm(tmp_path / "harm")))
    with pytest.raises(ConfigError, match="pass trusted=True"):
        load_weights(ranked.MaskedModel(), folder)
    assert not (tmp_path / "harm").exists()
    with pytest.raises(FileError, match="Give a folder that save_weights wrote"):
        load_weights(ranked.MaskedModel(), tmp_path / "nowhere", trusted=True)
