"""Checkpoints: round trip, every kind of damage, and a crash at every point of a save."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from worldline.errors import FileError
from worldline.training.checkpoint import Checkpoint, list_checkpoints, load_checkpoint, save_checkpoint

FILES = ["manifest.json", "model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"]


def make_checkpoint(step: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    return Checkpoint(
        step=step,
        config={"seed": 1, "learning_rate": 0.1},
        model={"weight": torch.randn(3, 2, generator=generator), "count": torch.tensor(step)},
        optimizer={"exp_avg/weight": torch.randn(3, 2, generator=generator)},
        rng={"cpu": torch.arange(5, dtype=torch.uint8)},
        callbacks={"EarlyStoppingCallback": {"best_value": 0.1 + 0.2}},
    )


def save(directory: Path, step: int) -> Path:
    return save_checkpoint(directory, make_checkpoint(step), nn.Identity())


def assert_equal(first: Checkpoint, second: Checkpoint) -> None:
    assert (first.step, first.config, first.callbacks) == (second.step, second.config, second.callbacks)
    for one, other in ((first.model, second.model), (first.optimizer, second.optimizer), (first.rng, second.rng)):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_round_trip(tmp_path: Path) -> None:
    path = save(tmp_path / "new" / "folder", 7)
    assert path == tmp_path / "new" / "folder" / "step_00000007"
    assert sorted(file.name for file in path.iterdir()) == FILES
    loaded = load_checkpoint(path)
    assert loaded.path == path
    assert_equal(loaded, make_checkpoint(7))


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = save(tmp_path / "a", 7), save(tmp_path / "b", 7)
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in FILES)


def test_tied_weights_and_views_are_saved(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    tensors = {"a": base, "tied": base, "view": base[2:4], "turned": base.view(2, 3).T}
    checkpoint = Checkpoint(step=1, config={}, model=tensors, optimizer={}, rng={}, callbacks={})
    loaded = load_checkpoint(save_checkpoint(tmp_path, checkpoint, nn.Identity()))
    assert all(torch.equal(loaded.model[name], tensor) for name, tensor in tensors.items())


def test_a_model_that_saves_itself_makes_the_checkpoint_a_saved_model(tmp_path: Path) -> None:
    class Saves(nn.Identity):
        def save_pretrained(self, path: Path, *, state_dict: Mapping[str, Tensor]) -> None:
            (path / "config.json").write_text("{}")
            save_file({name: 2 * tensor for name, tensor in state_dict.items()}, path / "model.safetensors")

    path = save_checkpoint(tmp_path, make_checkpoint(1), Saves())
    assert (path / "config.json").read_text() == "{}"
    assert torch.equal(load_checkpoint(path).model["weight"], 2 * make_checkpoint(1).model["weight"])
    (path / "config.json").write_text("[]")
    with pytest.raises(FileError, match=r"config\.json is damaged"):
        load_checkpoint(path)


def test_the_newest_of_a_folder_is_taken(tmp_path: Path) -> None:
    for step in (9, 100_000_000, 10):
        save(tmp_path, step)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000009", "step_00000010", "step_100000000"]
    assert load_checkpoint(tmp_path).step == 100_000_000


def test_nothing_to_resume_from(tmp_path: Path) -> None:
    for path, found in ((tmp_path, r"no step_\* folders"), (tmp_path / "x", "no such folder")):
        with pytest.raises(FileError, match=found):
            load_checkpoint(path)
    with pytest.raises(FileError, match=r"manifest\.json is missing"):
        load_checkpoint(tmp_path / "step_00000007")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 7)
    (path / name).unlink()
    with pytest.raises(FileError, match=f"{name} is missing"):
        load_checkpoint(path)


def test_a_renamed_checkpoint_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 7).rename(tmp_path / "step_00000008")
    with pytest.raises(FileError, match="of this step"):
        load_checkpoint(path)


def test_a_damaged_checkpoint_is_skipped_with_a_warning_that_names_it(tmp_path: Path) -> None:
    for step in (7, 14):
        save(tmp_path, step)
    (tmp_path / "step_00000014" / "state.json").unlink()
    with pytest.warns(UserWarning, match=r"Skipping.*step_00000014.state\.json is missing"):
        assert load_checkpoint(tmp_path).step == 7
    (tmp_path / "step_00000007" / "state.json").unlink()
    with pytest.warns(UserWarning, match="Skipping"), pytest.raises(FileError, match="None of the 2 checkpoints"):
        load_checkpoint(tmp_path)


def test_state_that_json_cannot_hold_is_our_own_mistake(tmp_path: Path) -> None:
    checkpoint = Checkpoint(step=1, config={}, model={}, optimizer={}, rng={}, callbacks={"x": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(tmp_path, checkpoint, nn.Identity())
