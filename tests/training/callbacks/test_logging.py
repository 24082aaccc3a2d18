"""LoggingCallback: what a line has, and that a resumed run continues the file."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console
from torch import Tensor

from training.tiny_training import TinyModel, TinySampler, make_config
from worldline.errors import ConfigError, MissingPackageError
from worldline.memory import memory_in_use
from worldline.training import Callback, CheckpointCallback, EvaluationCallback, LoggingCallback, Trainer, loggers
from worldline.training.callbacks import clock


def lines_of(directory: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_a_line_has_losses_norm_rate_speed_and_evaluations(tmp_path: Path) -> None:
    logging = LoggingCallback(tmp_path, use_tensorboard=False)
    evaluation = EvaluationCallback(lambda model, step: {"score": float(step)}, interval=4)
    trainer = Trainer(TinyModel(), make_config(total_steps=10, warmup_steps=10), [logging, evaluation])
    trainer.train(TinySampler())
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == [4, 5, 8, 10]  # each step once, though 4 and 8 only evaluate
    assert lines[1].keys() == {
        "step", "loss", "error", "grad_norm", "learning_rate", "steps_per_second", "rows_per_second", "data_wait",
        "train_seconds", *memory_in_use(),
    }  # fmt: skip
    assert lines[0]["eval/score"] == 4.0
    assert all(line["rows_per_second"] == pytest.approx(4 * 3 * line["steps_per_second"]) for line in lines)
    assert lines[1]["learning_rate"] == pytest.approx(5e-3)
    assert all(line["steps_per_second"] > 0 and 0 <= line["data_wait"] <= 1 for line in lines)


def test_the_console_gets_a_line_too() -> None:
    trainer = Trainer(TinyModel(), make_config(), [LoggingCallback(log_interval=10)])
    text = io.StringIO()
    trainer._console = Console(file=text, width=500)
    trainer.train(TinySampler())
    assert [line.split()[:3] for line in text.getvalue().splitlines()] == [
        ["step", "10", "loss"],
        ["step", "20", "loss"],
    ]


def test_a_resumed_run_has_every_step_once(tmp_path: Path) -> None:
    def run(total_steps: int, resume_from: Path | None = None) -> None:
        callbacks = [LoggingCallback(tmp_path, use_tensorboard=False), CheckpointCallback(tmp_path / "c", 10)]
        trainer = Trainer(TinyModel(), make_config(total_steps=total_steps), callbacks)
        trainer.train(TinySampler(), resume_from=resume_from)

    run(18)
    whole = lines_of(tmp_path)
    assert [line["step"] for line in whole] == [5, 10, 15, 18]  # the last step of a run has a line
    (tmp_path / "metrics.jsonl").open("a").write('{"step": 20, "lo')
    with pytest.warns(UserWarning, match="held 1 checkpoints"):
        run(30, resume_from=tmp_path / "c" / "step_00000010")
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == [5, 10, 15, 20, 25, 30]
    assert [line["loss"] for line in lines[:3]] == [line["loss"] for line in whole[:3]]


def test_seconds_of_training_go_on_where_the_checkpoint_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of steps that a kill took away does not count, as they are done again; nor does the time between."""

    class Now(Callback):
        """A clock that shows one second a step."""

        seconds = 100.0

        def perf_counter(self) -> float:
            return self.seconds

        def on_step_end(self, step: int, losses: Mapping[str, Tensor]) -> None:
            self.seconds += 1

    now = Now()
    monkeypatch.setattr(clock, "time", now)

    def run(total_steps: int, resume_from: Path | None = None) -> list[float]:
        logging = LoggingCallback(tmp_path, use_tensorboard=False, console=False)
        callbacks = [now, logging, CheckpointCallback(tmp_path / "c", 10)]
        trainer = Trainer(TinyModel(), make_config(total_steps=total_steps), callbacks)
        trainer.train(TinySampler(), resume_from=resume_from)
        return [line["train_seconds"] for line in lines_of(tmp_path)]

    assert run(18) == [5, 10, 15, 18]
    with pytest.warns(UserWarning, match="held 1 checkpoints"):
        assert run(25, resume_from=tmp_path / "c" / "step_00000010") == [5, 10, 15, 20, 25]


def test_tensorboard_is_used_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers.TensorBoardWriter, "is_installed", staticmethod(lambda: False))
    with pytest.raises(MissingPackageError, match=r"pip install 'worldline\[training\]'"):
        LoggingCallback(tmp_path, use_tensorboard=True)
    trainer = Trainer(TinyModel(), make_config(), [LoggingCallback(tmp_path)])
    trainer.train(TinySampler())
    assert not (tmp_path / "tensorboard").exists()
    monkeypatch.undo()
    pytest.importorskip("tensorboard")
    trainer = Trainer(TinyModel(), make_config(), [LoggingCallback(tmp_path / "b")])
    trainer.train(TinySampler())
    assert list((tmp_path / "b" / "tensorboard").iterdir())


@pytest.mark.parametrize("settings", [{"log_interval": 0}, {"use_tensorboard": True}])
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="LoggingCallback"):
        LoggingCallback(**settings)  # type: ignore[arg-type]


def test_what_else_is_measured_is_in_every_line(tmp_path: Path) -> None:
    calls = iter(range(100))
    logging = LoggingCallback(
        tmp_path, use_tensorboard=False, console=False, measure=lambda: {"env_steps": float(next(calls))}
    )
    Trainer(TinyModel(), make_config(total_steps=10), [logging]).train(TinySampler())
    assert [line["env_steps"] for line in lines_of(tmp_path)] == [0, 1]


def test_metrics_may_be_called_otherwise(tmp_path: Path) -> None:
    callback = LoggingCallback(tmp_path, log_interval=1, console=False, use_tensorboard=False, rename="my/{}".format)
    Trainer(TinyModel(), make_config(total_steps=1), [callback]).train(TinySampler())
    (line,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert {"step", "my/loss", "my/learning_rate"} <= line.keys()
    assert all(name == "step" or name.startswith("my/") for name in line)
