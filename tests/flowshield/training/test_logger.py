from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowshield.training import Logger, TrainerConfig
from worldline.errors import DataError


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_scalars_of_a_step_are_one_line(tmp_path: Path):
    logger = Logger(str(tmp_path / "logs"))
    logger.log_scalar("loss", 1.5, 1)
    logger.log_scalar("rate", np.float32(0.5), 1)
    logger.log_scalar("loss", 1.0, 2)
    assert lines(tmp_path / "logs") == [{"step": 1, "loss": 1.5, "rate": 0.5}]
    logger.close()
    logger.close()
    assert lines(tmp_path / "logs")[1:] == [{"step": 2, "loss": 1.0}]


def test_histograms_and_settings(tmp_path: Path):
    with Logger(tmp_path) as logger:
        logger.log_histogram("weights", np.arange(5, dtype=np.int64).reshape(1, 5), 3)
        logger.log_config({"model": {"hidden_dim": 4}, "list": (1, 2)})
        logger.log_config(TrainerConfig(seed=3))
        for values in ([], [np.nan], ["a"]):
            with pytest.raises(DataError):
                logger.log_histogram("weights", values, 3)
        with pytest.raises(DataError, match="cannot be written as JSON"):
            logger.log_config({"a": object()})
    expected = {"min": 0.0, "25%": 1.0, "50%": 2.0, "75%": 3.0, "max": 4.0}
    assert lines(tmp_path) == [{"step": 3} | {f"weights/{name}": value for name, value in expected.items()}]
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 3


def test_tensorboard_has_the_same(tmp_path: Path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with Logger(tmp_path) as logger:
        logger.log_scalar("loss", 1.5, 7)
        logger.log_histogram("weights", np.arange(100.0), 7)
        logger.log_config({"seed": 1})
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(7, 1.5)]
    assert events.Histograms("weights")[0].histogram_value.num == 100
    assert events.Tags()["tensors"] == ["config/text_summary"]


def test_an_older_log_is_moved_aside(tmp_path: Path):
    for value in (1.0, 2.0):
        with (
            pytest.warns(UserWarning, match="written by another run") if value > 1 else nothing(),
            Logger(tmp_path) as log,
        ):
            log.log_scalar("loss", value, 1)
    assert lines(tmp_path) == [{"step": 1, "loss": 2.0}]
    assert lines(tmp_path / "superseded_001") == [{"step": 1, "loss": 1.0}]


def nothing():
    import contextlib

    return contextlib.nullcontext()


def test_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    logged: list[Any] = []
    config = types.SimpleNamespace(update=lambda values, **_: logged.append(values))
    run = types.SimpleNamespace(
        log=lambda values, step: logged.append((step, values)), finish=lambda: logged.append("end"), config=config
    )
    fake: Any = types.ModuleType("wandb")
    fake.init = lambda **_: run
    fake.Histogram = lambda values: ("histogram", values)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with Logger(tmp_path, use_wandb=True) as logger:
        logger.log_scalar("loss", 1.0, 2)
        logger.log_histogram("weights", np.zeros(2), 2)
        logger.log_config({"seed": 1})
    assert logged == [(2, {"loss": 1.0}), (2, {"weights": ("histogram", [0.0, 0.0])}), {"seed": 1}, "end"]
