from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tiny_family import Tiny, TinyConfig
from worldflux.training import (
    Callback,
    CheckpointCallback,
    EarlyStoppingCallback,
    LoggingCallback,
    ProgressCallback,
    Trainer,
    TrainingConfig,
    create_random_buffer,
)
from worldline import training as core
from worldline.errors import ConfigError


def run(folder: Path, *callbacks: Callback, **settings: Any) -> Trainer[Tiny]:
    buffer = create_random_buffer(
        capacity=1000, obs_shape=(4,), action_dim=2, num_episodes=5, episode_length=20, seed=0
    )
    config = TrainingConfig(**{"total_steps": 6, "batch_size": 2, "sequence_length": 4, "device": "cpu"} | settings)
    trainer = Trainer(Tiny(TinyConfig(obs_shape=(4,), action_dim=2)), config)
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.train(buffer)
    return trainer


@pytest.mark.parametrize(
    "names", [("output_dir", "save_interval"), ("save_dir", "save_every"), ("output_dir", "save_every")]
)
def test_checkpoint_arguments_by_both_names(tmp_path: Path, names: tuple[str, str]):
    folder, interval = names
    callback = CheckpointCallback(**{folder: str(tmp_path / "out"), interval: 2, "max_checkpoints": 2})
    assert (callback.output_dir, callback.save_interval, callback.max_checkpoints) == (tmp_path / "out", 2, 2)
    assert isinstance(callback, core.CheckpointCallback)
    trainer = run(tmp_path, callback)
    resumed = Trainer(trainer.model, TrainingConfig(total_steps=7, batch_size=2, sequence_length=4, device="cpu"))
    resumed.train(
        create_random_buffer(capacity=1000, obs_shape=(4,), action_dim=2, num_episodes=5, episode_length=20, seed=0),
        resume_from=tmp_path / "out",
    )
    assert resumed.step == 7


def test_checkpoint_defaults_are_the_core_s(tmp_path: Path):
    callback, own = CheckpointCallback(output_dir=tmp_path), core.CheckpointCallback(output_dir=tmp_path)
    assert (callback.save_interval, callback.max_checkpoints) == (own.save_interval, own.max_checkpoints)


@pytest.mark.parametrize(
    "arguments",
    [{"output_dir": "a", "save_dir": "b"}, {"output_dir": "a", "save_interval": 1, "save_every": 2}],
)
def test_one_checkpoint_argument_by_two_names_is_refused(arguments: dict[str, Any]):
    with pytest.raises(ConfigError, match=r"save_\w+ is another name of \w+; got both"):
        CheckpointCallback(**arguments)


@pytest.mark.parametrize("name", ["log_dir", "output_dir"])
def test_log_folder_by_both_names(tmp_path: Path, name: str):
    callback = LoggingCallback(log_interval=2, use_wandb=False, **{name: str(tmp_path / "logs")})
    assert isinstance(callback, core.LoggingCallback)
    run(tmp_path, callback)
    lines = (tmp_path / "logs" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines if "loss" in json.loads(line)] == [2, 4, 6]


def test_logging_to_the_console_needs_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    run(tmp_path, LoggingCallback(log_interval=100))
    run(tmp_path, LoggingCallback(3))
    assert list(tmp_path.iterdir()) == []
    assert "loss" in capsys.readouterr().err


def test_two_names_of_the_log_folder_are_refused():
    with pytest.raises(ConfigError, match="log_dir is another name of output_dir; got both"):
        LoggingCallback(log_dir="a", output_dir="b")


def test_a_callback_as_the_documents_write_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    class MyCallback(Callback):
        def on_step_end(self, step, losses):
            if step % 2 == 0:
                print(f"Step {step}: loss={losses['loss']:.4f}")

    run(tmp_path, MyCallback(), ProgressCallback())
    steps = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert steps == ["Step 2", "Step 4", "Step 6"]


def test_early_stopping_as_the_documents_write_it(tmp_path: Path):
    trainer = run(
        tmp_path, EarlyStoppingCallback(monitor="loss", patience=1, min_delta=1e9), total_steps=50, log_interval=1
    )
    assert trainer.step < 50
