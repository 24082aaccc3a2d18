"""TrainConfig has the document's fields and defaults, and says them to Worldline."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from simscaleai.training.config import TrainConfig, core_config
from worldline.errors import ConfigError
from worldline.training.config import learning_rate_at

DOCUMENTED = {
    "model_name": "bc",
    "model_kwargs": {},
    "dataset_path": "",
    "batch_size": 32,
    "num_workers": 4,
    "lr": 1e-4,
    "weight_decay": 1e-5,
    "warmup_steps": 500,
    "max_steps": 100_000,
    "grad_clip": 1.0,
    "use_amp": True,
    "amp_dtype": "bfloat16",
    "distributed": False,
    "backend": "nccl",
    "checkpoint_dir": "checkpoints",
    "save_every": 5000,
    "resume_from": None,
    "log_every": 100,
    "eval_every": 1000,
    "use_wandb": False,
    "wandb_project": "simscaleai",
    "wandb_run_name": None,
    "device": "auto",
}


def test_the_fields_and_defaults_are_those_of_the_document():
    found = dataclasses.asdict(TrainConfig())
    assert found.pop("seed") == 42
    assert found == DOCUMENTED


def test_settings_by_worldlines_names():
    config = TrainConfig(lr=1e-3, weight_decay=0.1, warmup_steps=10, max_steps=110, grad_clip=0.5, device="cpu", seed=7)
    core = core_config(config, batch_size=64)
    assert (core.learning_rate, core.weight_decay, core.grad_clip, core.batch_size) == (1e-3, 0.1, 0.5, 64)
    assert (core.total_steps, core.log_interval, core.eval_interval, core.save_interval) == (110, 100, 1000, 5000)
    assert (core.device, core.seed) == ("cpu", 7)


def test_the_rate_rises_from_0_and_falls_to_0_along_a_cosine():
    core = core_config(TrainConfig(lr=1.0, warmup_steps=10, max_steps=109), batch_size=1)
    assert [learning_rate_at(core, step) for step in (1, 5, 10)] == [0.1, 0.5, 1.0]
    assert learning_rate_at(core, 60) == pytest.approx(0.5)
    assert 0 < learning_rate_at(core, 109) < 1e-3


@pytest.mark.parametrize(
    ("use_amp", "amp_dtype", "precision"),
    [(True, "bfloat16", "bf16"), (True, "float16", "fp16"), (False, "bfloat16", "fp32")],
)
def test_precision(use_amp: bool, amp_dtype: str, precision: str):
    assert core_config(TrainConfig(use_amp=use_amp, amp_dtype=amp_dtype), batch_size=1).precision == precision


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_steps", 0),
        ("batch_size", 2.5),
        ("num_workers", -1),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("grad_clip", -1.0),
        ("save_every", True),
        ("amp_dtype", "float32"),
        ("backend", "mpi"),
        ("model_kwargs", {"activation": object()}),
    ],
)
def test_a_wrong_value_is_named(field: str, value: Any):
    with pytest.raises(ConfigError, match=field):
        TrainConfig(**{field: value})
