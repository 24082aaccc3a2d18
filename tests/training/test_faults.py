"""Saves on disks that fail: whatever happens, at whatever operation, a whole checkpoint is there to resume from."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

import tiny_family
from training.faulty_disk import Disk, Dying, Full, Killed, LosingPower, on
from training.tiny_training import TinyModel, TinySampler, make_config, same_state, state_of
from worldline.errors import FileError
from worldline.training import Callback, CheckpointCallback, LoggingCallback, Trainer
from worldline.training.checkpoint import list_checkpoints, load_checkpoint, step_of

FAULTS: dict[str, Callable[[int, Path], Disk]] = {
    "killed": lambda at, root: Dying(at),
    "killed in a write": lambda at, root: Dying(at, tears=True),
    "power lost": lambda at, root: LosingPower(at, root, undoes=False),
    "power lost, renames undone": lambda at, root: LosingPower(at, root, undoes=True),
}


class SavesItself(TinyModel):
    """A model with `config.json`, as those of every family are."""

    config = tiny_family.TinyConfig(obs_shape=(4,), action_dim=2)
    family = "tiny"
    save_pretrained = tiny_family.Tiny.save_pretrained


def begin(directory: Path, model: nn.Module | None = None, **settings: object) -> Trainer[nn.Module]:
    """Return a trainer with one checkpoint, of step 1, that keeps one (and the best) and saves every step."""
    settings = {"save_interval": 1, "max_checkpoints": 1, "monitor": "error", "mode": "max", **settings}
    callback = CheckpointCallback(directory, **settings)  # type: ignore[arg-type]
    trainer: Trainer[nn.Module] = Trainer(model or SavesItself(), make_config(), [callback])
    with on(Disk()):
        trainer.train(TinySampler(), num_steps=1)
    return trainer


def expected_weights() -> dict[int, dict[str, torch.Tensor]]:
    trainer = Trainer(TinyModel(), make_config())
    weights = {}
    for step in range(1, 5):
        weights[step] = state_of(trainer.train(TinySampler(), num_steps=1))
    return weights


def count_operations(directory: Path) -> int:
    trainer = begin(directory)
    with on(Disk()) as disk:
        trainer.train(TinySampler(), num_steps=1)
    return disk.num_calls


@pytest.mark.parametrize("fault", FAULTS)
def test_a_crash_at_every_operation_of_a_save_leaves_a_whole_checkpoint(tmp_path: Path, fault: str) -> None:
    weights = expected_weights()
    total = count_operations(tmp_path / "count")
    assert total > 30
    for at in range(1, total + 2):
        directory = tmp_path / str(at)
        trainer = begin(directory)
        disk = FAULTS[fault](at, directory)
        with on(disk), contextlib.suppress(Killed):
            trainer.train(TinySampler(), num_steps=1)
            disk(len, "")  # after the last operation: what was reported as saved must be there for good
        checkpoints = list_checkpoints(directory)
        assert checkpoints
        for path in checkpoints:  # not one that is damaged
            assert same_state(dict(load_checkpoint(path).model), weights[step_of(path)])
        if at > total:
            assert checkpoints[-1].name == "step_00000002"
        again = CheckpointCallback(directory, 1, max_checkpoints=1, monitor="error", mode="max")
        resumed: Trainer[nn.Module] = Trainer(SavesItself(seed=9), make_config(total_steps=4), [again])
        with on(Disk()):
            resumed.train(TinySampler(), resume_from=directory)
        assert same_state(state_of(resumed.model), weights[4])
        assert not [path.name for path in directory.iterdir() if path.name.startswith(".")]  # leftovers are gone
        shutil.rmtree(directory)


@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_at_every_operation_is_a_warning_and_training_goes_on(tmp_path: Path, background: bool) -> None:
    weights = expected_weights()
    for at in range(1, count_operations(tmp_path / "count") + 1):
        directory = tmp_path / str(at)
        trainer = begin(directory, background=background)
        with on(Full(at, times=1)), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.train(TinySampler(), num_steps=3)
        messages = " ".join(str(warning.message) for warning in caught)
        assert not caught or "No space left on device" in messages
        assert not caught or "Training is not affected, and later saves are tried" in messages
        assert same_state(state_of(trainer.model), weights[4])
        assert same_state(dict(load_checkpoint(directory).model), weights[4])
        assert trainer.last_checkpoint == directory / "step_00000004"
        assert not list(directory.glob(".saving_*"))
        shutil.rmtree(directory)


@pytest.mark.parametrize("background", [False, True])
def test_a_disk_that_stays_full_is_an_error_at_the_end_and_loses_nothing(tmp_path: Path, background: bool) -> None:
    weights = expected_weights()
    trainer = begin(tmp_path, background=background)
    with (
        on(Full(1)),
        pytest.warns(UserWarning, match=r"Cannot save.*Older checkpoints are untouched.*later saves are tried"),
        pytest.raises(FileError, match=r"Cannot save the checkpoint .*step_00000003: .*No space left on device"),
    ):
        trainer.train(TinySampler(), num_steps=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000001"]
    load_checkpoint(tmp_path / "step_00000001")
    with pytest.warns(UserWarning, match="Nothing to train"):
        trainer.train(TinySampler(), num_steps=0)  # there is room again
    assert same_state(dict(load_checkpoint(tmp_path).model), weights[3])
    trainer.train(TinySampler(), num_steps=1)
    assert same_state(state_of(trainer.model), weights[4])


def test_a_best_checkpoint_that_could_not_be_saved_is_not_the_best(tmp_path: Path) -> None:
    trainer = begin(tmp_path)
    callback = trainer.callbacks[0]
    assert isinstance(callback, CheckpointCallback)
    callback.best_value = -1.0  # so that any step would be the best
    with on(Full(1)), pytest.warns(UserWarning, match="No space"), pytest.raises(FileError):
        trainer.train(TinySampler(), num_steps=2)
    assert (callback.best_step, callback.best_value) == (1, -1.0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of its own, of 256 KiB."""
    path = tmp_path / "small"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)]
    if not sys.platform.startswith("linux") or shutil.which("mount") is None:
        pytest.skip("needs mount and tmpfs, which Linux has")
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"this process may not mount a filesystem: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_real_disk_that_is_full(small_disk: Path) -> None:
    directory = small_disk / "checkpoints"
    trainer = begin(directory, TinyModel())
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        while (free := shutil.disk_usage(small_disk).free) > 0:
            file.write(bytes(free))
    for keep in (0, 4096, 8192):  # room for nothing, for a part, for a little more
        with ballast.open("r+b") as file:
            file.truncate(ballast.stat().st_size - keep)
        with pytest.warns(UserWarning, match="No space left"), pytest.raises(FileError, match="No space left"):
            trainer.train(TinySampler(), num_steps=2)
        assert [path.name for path in list_checkpoints(directory)] == ["step_00000001"]
        load_checkpoint(directory / "step_00000001")
    ballast.unlink()
    trainer.train(TinySampler(), num_steps=1)
    assert load_checkpoint(directory).step == trainer.step


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's writer ends so
def test_a_run_with_all_its_logs_outlives_a_full_disk(small_disk: Path) -> None:
    class Filling(Callback):
        def on_step_end(self, step: int, losses: Mapping[str, torch.Tensor]) -> None:
            ballast = small_disk / "ballast"
            if step == 5:
                with ballast.open("wb", buffering=0) as file:
                    while (free := shutil.disk_usage(small_disk).free) > 0:
                        file.write(bytes(free))
            elif step == 600:
                ballast.unlink()

    logging = LoggingCallback(small_disk / "run", log_interval=1, console=False, use_tensorboard=True)
    saving = CheckpointCallback(small_disk / "run" / "checkpoints", 150)
    trainer = Trainer(TinyModel(), make_config(total_steps=610), [Filling(), logging, saving])
    with pytest.warns(UserWarning) as caught:  # noqa: PT030 - of all three, looked at below
        trainer.train(TinySampler())
    messages = " ".join(str(warning.message) for warning in caught)
    for expected in ("step_00000150: ", "log is kept until there is room", "TensorBoard's files cannot be written"):
        assert expected in messages
    lines = (small_disk / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 611))
    assert load_checkpoint(small_disk / "run" / "checkpoints").step == 610


def test_a_folder_that_may_not_be_written_is_refused_at_once(small_disk: Path) -> None:
    trainer = begin(small_disk / "checkpoints", TinyModel())
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(FileError, match=r"Cannot write into the folder .*checkpoints: Read-only file system"):
        trainer.train(TinySampler(), num_steps=5)
    assert trainer.step == 1
    assert load_checkpoint(small_disk / "checkpoints").step == 1


@pytest.mark.parametrize("model", [TinyModel, SavesItself])
def test_a_thousand_flipped_bits_and_truncations_are_all_noticed(tmp_path: Path, model: type[TinyModel]) -> None:
    """Each in one file of the newest of two checkpoints: that file is named, and the other checkpoint is taken."""
    trainer = begin(tmp_path, model(), max_checkpoints=2)
    trainer.train(TinySampler(), num_steps=1)
    older, newest = list_checkpoints(tmp_path)
    files = sorted(newest.iterdir())
    whole = {path: path.read_bytes() for path in files}
    generator = random.Random(0)
    for number in range(500):
        path = files[number % len(files)]
        content = bytearray(whole[path])
        if number % 4 == 3:
            content = content[: generator.randrange(len(content))]
        else:
            content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(content)
        with pytest.warns(UserWarning, match=f"Skipping a damaged checkpoint.*{newest.name}/{path.name}") as caught:
            assert load_checkpoint(tmp_path, trainer.model).path == older
        assert len(caught) == 1
        path.write_bytes(whole[path])
    assert load_checkpoint(tmp_path, trainer.model).path == newest
