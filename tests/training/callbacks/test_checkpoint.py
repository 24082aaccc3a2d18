"""CheckpointCallback: when it saves, what it keeps, what it puts away."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest
from torch import Tensor, nn

from training.tiny_training import TinyModel, TinySampler, make_config
from worldline.errors import ConfigError, DataError, FileError
from worldline.training import Callback, CheckpointCallback, EvaluationCallback, LoggingCallback, Trainer
from worldline.training.callbacks import checkpoint as module
from worldline.training.callbacks.base import Order
from worldline.training.checkpoint import Checkpoint, list_checkpoints, load_checkpoint, save_checkpoint


def train(
    directory: Path, total_steps: int = 20, resume_from: Path | None = None, **settings: object
) -> Trainer[TinyModel]:
    callback = CheckpointCallback(directory, **settings)  # type: ignore[arg-type]
    trainer = Trainer(TinyModel(), make_config(total_steps=total_steps), [callback])
    trainer.train(TinySampler(), resume_from=resume_from)
    return trainer


def steps_in(directory: Path) -> list[int]:
    return [int(path.name[5:]) for path in list_checkpoints(directory)]


def test_the_newest_are_kept_and_the_last_step_is_saved(tmp_path: Path) -> None:
    trainer = train(tmp_path, save_interval=3, max_checkpoints=2)
    assert steps_in(tmp_path) == [18, 20]
    assert trainer.last_checkpoint == tmp_path / "step_00000020"


def test_the_interval_is_the_trainers_by_default(tmp_path: Path) -> None:
    trainer = Trainer(TinyModel(), make_config(save_interval=8), [CheckpointCallback(tmp_path)])
    trainer.train(TinySampler())
    assert steps_in(tmp_path) == [8, 16, 20]


def test_a_last_step_that_is_saved_already_is_not_saved_again(tmp_path: Path) -> None:
    train(tmp_path, save_interval=10)
    before = (tmp_path / "step_00000020").stat().st_ino
    with pytest.warns(UserWarning, match="Nothing to train"):
        train(tmp_path, resume_from=tmp_path, save_interval=10)
    assert steps_in(tmp_path) == [10, 20]
    assert (tmp_path / "step_00000020").stat().st_ino == before


@pytest.mark.parametrize(("mode", "best"), [("min", 8), ("max", 4)])
def test_the_best_is_kept_and_named(tmp_path: Path, mode: str, best: int) -> None:
    scores = {4: 5.0, 8: 1.0, 12: 3.0, 16: 4.0, 20: 2.0}
    evaluation = EvaluationCallback(lambda model, step: {"score": scores[step]}, interval=4)
    saving = CheckpointCallback(tmp_path, 4, max_checkpoints=1, monitor="eval/score", mode=mode)  # type: ignore[arg-type]
    trainer = Trainer(
        TinyModel(), make_config(), [saving, evaluation]
    )  # the order in which they are given is no matter
    trainer.train(TinySampler())
    assert steps_in(tmp_path) == [best, 20]
    record = json.loads((tmp_path / "best.json").read_text())
    assert record == {"checkpoint": f"step_{best:08d}", "step": best, "eval/score": scores[best]}


def test_the_best_survives_a_resume(tmp_path: Path) -> None:
    scores: Mapping[int, float] = {4: 1.0, 8: 5.0, 12: 3.0, 16: 4.0, 20: 2.0}
    for resume_from, total_steps in ((None, 8), (tmp_path, 20)):
        trainer = Trainer(
            TinyModel(),
            make_config(total_steps=total_steps),
            [
                CheckpointCallback(tmp_path, 4, max_checkpoints=1, monitor="eval/score"),
                EvaluationCallback(lambda model, step: {"score": scores[step]}, interval=4),
            ],
        )
        trainer.train(TinySampler(), resume_from=resume_from)
    assert steps_in(tmp_path) == [4, 20]


def test_a_loss_can_be_monitored_and_an_unknown_name_is_refused_at_once(tmp_path: Path) -> None:
    train(tmp_path / "a", monitor="error", save_interval=5)
    assert json.loads((tmp_path / "a" / "best.json").read_text())["error"] > 0
    with pytest.raises(ConfigError, match=r"cannot monitor 'eror', which no step has\. Did you mean 'error'"):
        train(tmp_path / "b", monitor="eror", save_interval=5)
    assert steps_in(tmp_path / "b") == []


def monitored(
    directory: Path, monitor: str, total_steps: int, resume_from: Path | None = None, num_steps: int | None = None
) -> Trainer[TinyModel]:
    """Train with a save every 4 steps and an evaluation every 10, and at the end."""
    evaluation = EvaluationCallback(lambda model, step: {"score": 1.0 / step}, interval=10)
    callbacks = [CheckpointCallback(directory, 4, max_checkpoints=9, monitor=monitor), evaluation]
    trainer = Trainer(TinyModel(), make_config(total_steps=total_steps), callbacks)
    trainer.train(TinySampler(), num_steps, resume_from)
    return trainer


def test_before_the_first_evaluation_there_is_no_best_one(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitored(tmp_path, "eval/score", total_steps=20)
    assert steps_in(tmp_path) == [4, 8, 12, 16, 20]
    assert json.loads((tmp_path / "best.json").read_text())["step"] == 20


def test_a_run_resumed_before_an_evaluation_saves_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    monitored(tmp_path / "whole", "eval/score", total_steps=24)
    for stop in (6, 15):  # before any evaluation, and after one
        directory = tmp_path / str(stop)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if stop == 6 else "error")  # that there is no best yet
            monitored(directory, "eval/score", total_steps=24, num_steps=stop)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            monitored(directory, "eval/score", total_steps=24, resume_from=directory)
        for name in ("best.json", "step_00000024/model.safetensors", "step_00000024/state.json"):
            assert (tmp_path / "whole" / name).read_bytes() == (directory / name).read_bytes()


def test_the_best_of_another_run_is_put_aside(tmp_path: Path) -> None:
    monitored(tmp_path, "eval/score", total_steps=20)
    with pytest.warns(UserWarning, match="held 5 checkpoints"), pytest.warns(UserWarning, match="up to step 5"):
        monitored(tmp_path, "eval/score", total_steps=20, num_steps=5)
    assert not (tmp_path / "best.json").exists()
    assert (tmp_path / "superseded_001" / "best.json").exists()


def test_a_result_that_never_comes_is_a_warning_but_costs_no_checkpoint(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"gave 'eval/scroe' so far\. Did you mean 'eval/score'") as caught:
        monitored(tmp_path / "typo", "eval/scroe", total_steps=20)
    assert len(caught) == 1
    assert steps_in(tmp_path / "typo") == [4, 8, 12, 16, 20]
    with pytest.warns(UserWarning, match="gave 'eval/score' up to step 9. Known: none"):
        monitored(tmp_path / "short", "eval/score", total_steps=20, num_steps=9)
    assert steps_in(tmp_path / "short") == [4, 8, 9]
    assert not (tmp_path / "short" / "best.json").exists()


def test_two_callbacks_keep_to_their_own_folders_over_two_calls(tmp_path: Path) -> None:
    callbacks = [CheckpointCallback(tmp_path / "a", 5), CheckpointCallback(tmp_path / "b", 10)]
    trainer = Trainer(TinyModel(), make_config(), callbacks)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.train(TinySampler(), num_steps=10)
        trainer.train(TinySampler())
    assert (steps_in(tmp_path / "a"), steps_in(tmp_path / "b")) == ([10, 15, 20], [10, 20])


def test_a_callback_that_is_used_for_a_second_run_saves_its_end_too(tmp_path: Path) -> None:
    callback = CheckpointCallback(tmp_path, 50)
    Trainer(TinyModel(), make_config(), [callback]).train(TinySampler())
    with pytest.warns(UserWarning, match="held 1 checkpoints"):
        Trainer(TinyModel(), make_config(), [callback]).train(TinySampler())
    assert steps_in(tmp_path) == [20]
    assert steps_in(tmp_path / "superseded_001") == [20]


def test_a_folder_by_another_name_is_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train(Path("c"), save_interval=10)
    with pytest.warns(UserWarning, match="Nothing to train"):
        train(Path("c"), resume_from=tmp_path / "c", save_interval=10)
    assert steps_in(tmp_path / "c") == [10, 20]


def test_checkpoints_of_another_run_are_put_aside(tmp_path: Path) -> None:
    train(tmp_path, save_interval=10)
    with pytest.warns(UserWarning, match=r"held 2 checkpoints that are not of this run.*superseded_001"):
        train(tmp_path, total_steps=5)
    assert steps_in(tmp_path) == [5]
    assert steps_in(tmp_path / "superseded_001") == [10, 20]


def test_later_checkpoints_are_put_aside_when_an_earlier_one_is_resumed(tmp_path: Path) -> None:
    train(tmp_path, save_interval=5, max_checkpoints=9)
    with pytest.warns(UserWarning, match="held 2 checkpoints"):
        train(tmp_path, total_steps=12, resume_from=tmp_path / "step_00000010", save_interval=5)
    assert steps_in(tmp_path) == [5, 10, 12]


def test_resuming_the_newest_puts_nothing_aside(tmp_path: Path) -> None:
    train(tmp_path, total_steps=10, save_interval=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(tmp_path, resume_from=tmp_path, save_interval=5)
    assert steps_in(tmp_path) == [10, 15, 20]


def test_a_checkpoint_holds_the_state_of_callbacks_that_come_after_it(tmp_path: Path) -> None:
    from worldline.training import EarlyStoppingCallback

    trainer = Trainer(TinyModel(), make_config(log_interval=3), [CheckpointCallback(tmp_path), EarlyStoppingCallback()])
    trainer.train(TinySampler(), num_steps=3)
    saved = load_checkpoint(tmp_path).callbacks["EarlyStoppingCallback"]
    assert saved["best_step"] == 3
    assert saved["count"] == 0


@pytest.mark.parametrize("settings", [{"max_checkpoints": 0}, {"save_interval": 0}, {"mode": "least"}])
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="CheckpointCallback needs"):
        CheckpointCallback(**settings)  # type: ignore[arg-type]


def test_what_is_saved_in_the_background_is_the_same_bytes(tmp_path: Path) -> None:
    for name, background in (("a", False), ("b", True)):
        trainer = train(tmp_path / name, save_interval=3, max_checkpoints=9, monitor="error", background=background)
        assert trainer.last_checkpoint == tmp_path / name / "step_00000020"
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(files) == 7 * 5 + 1
    assert all((tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes() for path in files)


class Slow:
    """In the place of `save_checkpoint`: waits until it is let go, and notes how many write at once."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.num_writing = self.most = 0
        self.steps: list[int] = []

    def __call__(self, directory: Path, checkpoint: Checkpoint, model: nn.Module) -> Path:
        self.num_writing += 1
        self.most = max(self.most, self.num_writing)
        assert self.let_go.wait(60)
        self.steps.append(checkpoint.step)
        self.num_writing -= 1
        return save_checkpoint(directory, checkpoint, model)


class LetGo(Callback):
    """Lets go of what is being written at a step."""

    def __init__(self, slow: Slow, step: int) -> None:
        self.slow, self.step = slow, step
        self.written_before: list[int] = []

    def on_step_begin(self, step: int) -> None:
        if step == self.step:
            self.written_before = list(self.slow.steps)
            self.slow.let_go.set()


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    monkeypatch.setattr(module, "save_checkpoint", slow)
    letting_go = LetGo(slow, step=8)
    saving = CheckpointCallback(tmp_path, 5, max_checkpoints=9, background=True)
    trainer = Trainer(TinyModel(), make_config(), [saving, letting_go])
    trainer.train(TinySampler())
    assert letting_go.written_before == []  # steps 6 and 7 did not wait for the checkpoint of step 5
    assert slow.steps == [5, 10, 15, 20]
    assert slow.most == 1
    assert steps_in(tmp_path) == [5, 10, 15, 20]  # training ended when all was written
    whole = Trainer(TinyModel(), make_config(), [CheckpointCallback(tmp_path / "whole", 5, max_checkpoints=9)])
    whole.train(TinySampler())
    for step in (5, 20):  # the step's own state, whatever training did to it meanwhile
        name = f"step_{step:08d}/model.safetensors"
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_fails_in_the_background_is_told_at_a_later_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> Path:
        raise FileError("no room")

    steps = []

    class Watching(Callback):
        order = Order.RECORD

        def on_step_end(self, step: int, losses: Mapping[str, Tensor]) -> None:
            if step == 10:
                monkeypatch.setattr(module, "save_checkpoint", save_checkpoint)
            steps.append(step)

    monkeypatch.setattr(module, "save_checkpoint", fail)
    trainer = Trainer(TinyModel(), make_config(), [CheckpointCallback(tmp_path, 5, background=True), Watching()])
    with pytest.warns(UserWarning, match=r"no room Training is not affected") as caught:
        trainer.train(TinySampler())
    assert len(caught) == 1
    assert steps_in(tmp_path) == [10, 15, 20]
    assert len(steps) == 20


def test_a_mistake_in_the_background_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> Path:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(module, "save_checkpoint", fail)
    with pytest.raises(ZeroDivisionError, match="ours"):
        train(tmp_path, save_interval=5, background=True)


def test_what_a_kill_left_undone_is_done_on_resume(tmp_path: Path) -> None:
    train(tmp_path, save_interval=5, max_checkpoints=9, monitor="error")
    best = (tmp_path / "best.json").read_text()
    (tmp_path / "best.json").unlink()
    with pytest.warns(UserWarning, match="Nothing to train"):
        train(tmp_path, resume_from=tmp_path, save_interval=5, max_checkpoints=1, monitor="error")
    assert (tmp_path / "best.json").read_text() == best
    assert steps_in(tmp_path) == sorted({json.loads(best)["step"], 20})


@pytest.mark.parametrize("kind", [CheckpointCallback, LoggingCallback])
def test_two_processes_cannot_train_into_one_folder(tmp_path: Path, kind: type[Callback]) -> None:
    (tmp_path / ".lock").write_text('{"pid": 12345, "host": "elsewhere", "command": "train"}')
    descriptor = os.open(tmp_path / ".lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"torn')
    trainer = Trainer(TinyModel(), make_config(), [kind(tmp_path)])  # type: ignore[call-arg]
    with pytest.raises(FileError, match=r"is in use by process 12345 on 'elsewhere'"):
        trainer.train(TinySampler())
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step": 1}\n{"torn'
    os.close(descriptor)
    trainer.train(TinySampler())
    assert not (tmp_path / ".lock").exists()


def test_a_best_step_that_is_none_is_refused() -> None:
    for state in ({"best_step": "../x", "best_value": 1.0}, {"best_step": 3, "best_value": None}):
        with pytest.raises(DataError, match="best checkpoint cannot be step"):
            CheckpointCallback().load_state_dict(state)
