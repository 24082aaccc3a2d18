"""Checkpoints: round trip, every kind of damage, and a crash at every point of a save."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from worldline.errors import FileError
from worldline.training import checkpoint as module
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
        def save_pretrained(self, path: Path) -> None:
            (path / "config.json").write_text("{}")
            module.save_file({"weight": torch.ones(1)}, path / "model.safetensors")

    path = save_checkpoint(tmp_path, make_checkpoint(1), Saves())
    assert (path / "config.json").read_text() == "{}"
    assert load_checkpoint(path).model["weight"].item() == 1.0
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


def test_every_bit_flip_and_truncation_is_detected_and_the_file_named(tmp_path: Path) -> None:
    pristine = save(tmp_path / "pristine", 7)
    generator = random.Random(0)
    for number in range(250):
        path = tmp_path / f"{number}" / "step_00000007"
        shutil.copytree(pristine, path)
        name = FILES[number % len(FILES)]
        content = bytearray((path / name).read_bytes())
        if number % 4 == 3:
            content = content[: generator.randrange(len(content))]
        else:
            content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        (path / name).write_bytes(content)
        with pytest.raises(FileError, match=name.replace(".", r"\.")):
            load_checkpoint(path)
        shutil.rmtree(path.parent)


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


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


def failing_at(call: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Make the call number `call` of all that writes, flushes or renames raise; return the counter of calls."""
    count = 0

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == call:
                raise error
            return function(*args, **kwargs)

        return wrapped

    monkeypatch.setattr(module, "save_file", wrap(module.save_file))
    monkeypatch.setattr(module, "sync", wrap(module.sync))
    for method in ("write_text", "rename", "mkdir"):
        monkeypatch.setattr(Path, method, wrap(getattr(Path, method)))
    return lambda: count


def test_a_kill_at_every_point_of_a_save_leaves_whole_checkpoints_only(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        calls = failing_at(0, Killed(), patch)
        save(tmp_path / "count", 2)
        total = calls()
    assert total > 10
    for call in range(1, total + 1):
        directory = tmp_path / str(call)
        save(directory, 1)
        with pytest.MonkeyPatch.context() as patch:
            failing_at(call, Killed(), patch)
            with pytest.raises(Killed):
                save(directory, 2)
        for path in list_checkpoints(directory):
            assert_equal(load_checkpoint(path), make_checkpoint(module.step_of(path)))
        assert load_checkpoint(directory).step in (1, 2)
        save(directory, 3)
        assert all(path.name.startswith("step_") for path in directory.iterdir())  # leftovers are gone


def test_a_full_disk_at_every_point_of_a_save_is_reported_and_harms_nothing(tmp_path: Path) -> None:
    for call in range(1, 14):
        directory = tmp_path / str(call)
        save(directory, 1)
        with pytest.MonkeyPatch.context() as patch:
            failing_at(call, OSError(28, "No space left on device"), patch)
            with pytest.raises(FileError, match=r"No space left on device.*Older checkpoints are untouched"):
                save(directory, 2)
        assert load_checkpoint(directory / "step_00000001").step == 1
        assert not list(directory.glob(".saving_*"))


def test_state_that_json_cannot_hold_is_our_own_mistake(tmp_path: Path) -> None:
    checkpoint = Checkpoint(step=1, config={}, model={}, optimizer={}, rng={}, callbacks={"x": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(tmp_path, checkpoint, nn.Identity())
