"""TrainingConfig: defaults of the documents, refusals, the learning rate."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from worldline.errors import ConfigError
from worldline.training.config import TrainingConfig, fast_dev_config, free_settings, learning_rate_at


def test_the_documented_defaults() -> None:
    config = TrainingConfig()
    assert (config.total_steps, config.batch_size, config.sequence_length) == (100_000, 16, 50)
    assert (config.learning_rate, config.weight_decay, config.grad_clip, config.warmup_steps) == (3e-4, 0.0, 100.0, 0)
    assert (config.log_interval, config.eval_interval, config.save_interval) == (100, 1000, 10_000)
    assert (config.device, config.seed, config.precision) == ("auto", 42, "fp32")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("total_steps", 0),
        ("total_steps", 1e5),
        ("batch_size", True),
        ("sequence_length", -1),
        ("log_interval", 0),
        ("warmup_steps", -1),
        ("seed", -1),
        ("seed", 1 << 32),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("grad_clip", float("inf")),
        ("weight_decay", -0.1),
        ("precision", "fp8"),
        ("num_micro_batches", 0),
        ("num_micro_batches", 17),
        ("ema_decay", 0.0),
        ("ema_decay", 1.0),
        ("ema_decay", float("nan")),
        ("on_anomaly", "ignore"),
        ("max_anomalies", -1),
        ("spike_threshold", 0.0),
        ("device", ""),
    ],
)
def test_impossible_values_name_the_setting(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be .*got"):
        TrainingConfig(**{name: value})  # type: ignore[arg-type]


def test_learning_rate_rises_linearly_then_stays() -> None:
    config = TrainingConfig(learning_rate=2.0, warmup_steps=4)
    assert [learning_rate_at(config, step) for step in (1, 2, 3, 4, 5, 1000)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


def test_without_warmup_the_first_step_has_the_full_rate() -> None:
    assert learning_rate_at(TrainingConfig(learning_rate=2.0), 1) == 2.0


def test_the_configuration_does_not_import_torch() -> None:
    code = "import sys, worldline.training.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_falling_schedules_by_hand() -> None:
    linear = TrainingConfig(learning_rate=2.0, warmup_steps=2, total_steps=11, schedule="linear", final_rate=0.5)
    # Warm-up 1, 2; then from 2 at step 2 towards 1 at step 12.
    assert [learning_rate_at(linear, step) for step in (1, 2, 7, 12, 99)] == [1.0, 2.0, 1.5, 1.0, 1.0]
    cosine = TrainingConfig(learning_rate=2.0, total_steps=8, schedule="cosine")
    # Half the way is half the rate; a quarter is (1 + cos 45 degrees) / 2.
    assert learning_rate_at(cosine, 5) == pytest.approx(1.0)
    assert learning_rate_at(cosine, 3) == pytest.approx(1 + 2**-0.5)
    assert learning_rate_at(cosine, 9) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("schedule", "final_rate", "expected"),
    [
        # Warm-up 0.2, 0.4, 0.6, 0.8, 1 at steps 1 to 5; then 8 steps to what step 13, one after the last, would have.
        ("constant", 0.0, [0.2, 0.8, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", 0.0, [0.2, 0.8, 1.0, 0.875, 0.5, 0.125, 0.0]),
        ("linear", 0.2, [0.2, 0.8, 1.0, 0.9, 0.6, 0.3, 0.2]),
        ("cosine", 0.0, [0.2, 0.8, 1.0, 0.9619397662556434, 0.5, 0.03806023374435663, 0.0]),  # (1 + cos(pi / 8)) / 2
        ("cosine", 0.2, [0.2, 0.8, 1.0, 0.9695518130045147, 0.6, 0.23044818699548531, 0.2]),
    ],
)
def test_warmup_and_every_schedule_by_hand(schedule: str, final_rate: float, expected: list[float]) -> None:
    config = TrainingConfig(
        learning_rate=1.0,
        warmup_steps=5,
        total_steps=12,
        schedule=schedule,
        final_rate=final_rate,  # type: ignore[arg-type]
    )
    rates = [learning_rate_at(config, step) for step in (1, 4, 5, 6, 9, 12, 13)]
    assert rates == pytest.approx(expected, abs=1e-12)


def test_what_a_resumed_run_may_change() -> None:
    common = {"eval_interval", "device", "strategy", "on_anomaly", "max_anomalies"}
    intervals = {"log_interval", "save_interval"}
    assert free_settings(TrainingConfig()) == common | intervals | {"total_steps"}
    assert free_settings(TrainingConfig(schedule="linear")) == common | intervals
    rolling = TrainingConfig(on_anomaly="rollback", schedule="linear")  # perhaps on an accelerator
    assert free_settings(rolling) == common
    assert free_settings(dataclasses.replace(rolling, device="cpu")) == common | intervals


@pytest.mark.parametrize("settings", [{"schedule": "step"}, {"final_rate": 1.5}, {"final_rate": float("nan")}])
def test_impossible_schedules_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        TrainingConfig(**settings)


def test_a_fast_dev_run_has_a_few_steps_of_everything_and_the_same_numbers() -> None:
    config = TrainingConfig(batch_size=7, learning_rate=1e-2)
    short = fast_dev_config(config)
    assert short.total_steps // short.save_interval >= 2
    assert short.eval_interval <= short.total_steps
    assert short.log_interval <= short.total_steps
    assert (short.batch_size, short.learning_rate) == (7, 1e-2)
