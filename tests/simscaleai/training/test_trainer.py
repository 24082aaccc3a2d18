"""Any module trains; what is returned, evaluated and logged."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from simscale_runs import Linear, Points, make_config, make_trainer
from simscaleai.training.trainer import TrainConfig, Trainer
from worldline.errors import ConfigError, DataError, NonFiniteError


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "logs" / "metrics.jsonl").read_text().splitlines()]


def test_it_learns_and_says_so(tmp_path: Path):
    trainer = make_trainer(tmp_path, max_steps=300, eval_every=100, save_every=1000)
    result = trainer.train()
    assert result["global_step"] == trainer.global_step == 300
    assert result["final_loss"] < 0.05
    assert result["best_eval_loss"] <= result["eval/loss"] < 0.3
    assert result["samples_per_second"] > 0
    assert result["train_seconds"] > 0
    assert result["eval/scale"] == 2.0
    assert "eval/predicted_actions" not in result


def test_the_same_seed_gives_the_same_weights_and_another_one_others(tmp_path: Path):
    runs = [make_trainer(tmp_path / str(n), noise=0.1, seed=seed) for n, seed in enumerate((1, 1, 2))]
    for run in runs:
        run.train()
    first, second, third = (run.model.net[0].weight for run in runs)  # type: ignore[index]
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_an_evaluation_is_a_mean_over_samples(tmp_path: Path):
    trainer = make_trainer(tmp_path)
    points = Points(num_samples=11)  # in batches of 4, 4 and 3
    with torch.no_grad():
        expected = trainer.model({"observations": {"x": points.x}, "actions": points.y})["loss"]
    assert trainer.evaluate()["loss"] == pytest.approx(float(expected), rel=1e-6)


def test_training_is_the_same_with_and_without_evaluations(tmp_path: Path):
    def disturb(model: Linear) -> dict[str, float]:
        torch.rand(3)
        return {"noise": float(torch.rand(()))}

    first = make_trainer(tmp_path / "a", dropout=0.3, noise=0.1, eval_fn=disturb, eval_every=1)
    second = make_trainer(tmp_path / "b", dropout=0.3, noise=0.1, eval_every=100)
    first.train(), second.train()
    assert torch.equal(first.model.net[0].weight, second.model.net[0].weight)  # type: ignore[index]


def test_eval_fn_gets_the_bare_model_in_evaluation_mode(tmp_path: Path):
    seen = []

    def evaluate(model: nn.Module) -> dict[str, Any]:
        seen.append((type(model), model.training, torch.is_grad_enabled()))
        return {"success_rate": 0.5, "note": "not a number", "return": torch.tensor(3.0)}

    trainer = make_trainer(tmp_path, eval_fn=evaluate, eval_every=4)
    result = trainer.train()
    assert seen == [(Linear, False, False)] * 3
    assert (result["eval/success_rate"], result["eval/return"]) == (0.5, 3.0)
    assert "eval/note" not in result


NUMPY = {"a": 0.5, "b": 2.0, "c": 1.0, "d": 0.25}


@dataclasses.dataclass
class Found:
    success_rate: float = 0.25
    name: str = "x"


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        (Found(), {"success_rate": 0.25}),
        (0.5, {"eval_fn": 0.5}),
        (None, {}),
        (np.float32(0.5), {"eval_fn": 0.5}),
        (torch.tensor(0.5), {"eval_fn": 0.5}),
        ({"a": np.float32(0.5), "b": np.int64(2), "c": np.bool_(True), "d": np.array(0.25)}, NUMPY),
    ],
)
def test_eval_fn_may_return_an_object_a_number_or_nothing(tmp_path: Path, returned: Any, expected: dict[str, float]):
    loader = DataLoader(Points(), batch_size=8)
    assert Trainer(Linear(), loader, make_config(tmp_path), eval_fn=lambda model: returned).evaluate() == expected


def test_the_logs_have_the_documents_names(tmp_path: Path):
    make_trainer(tmp_path, eval_fn=lambda model: {"success_rate": 1.0}).train()
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == [3, 4, 6, 8, 9, 12]
    assert {"train/loss", "train/lr", "train/absolute_error", "train/scale"} <= lines[0].keys()
    assert lines[0]["train/lr"] == pytest.approx(0.01, rel=0.05)
    assert {"eval/loss", "eval/absolute_error", "eval/success_rate"} <= lines[-1].keys()
    assert not any(name.split("/")[0] not in ("step", "train", "eval") for line in lines for name in line)
    assert list((tmp_path / "logs" / "tensorboard").glob("events.*"))


def test_wandb_gets_the_project_and_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from worldline.training.loggers import WandbWriter

    asked: list[Any] = []
    monkeypatch.setattr(WandbWriter, "start", lambda config, folder, options: asked.append(options))
    make_trainer(tmp_path / "a", use_wandb=True, wandb_project="arm", wandb_run_name="first").train()
    make_trainer(tmp_path / "b").train()
    assert asked == [{"project": "arm", "name": "first"}]


def test_the_batch_size_is_the_loaders(tmp_path: Path):
    trainer = make_trainer(tmp_path, batch_size=5)
    assert trainer.config.batch_size == 5


def test_a_second_call_finds_nothing_left_to_do(tmp_path: Path):
    trainer = make_trainer(tmp_path)
    first = trainer.train()
    with pytest.warns(UserWarning, match="Nothing to train"):
        second = trainer.train()
    assert second["final_loss"] == first["final_loss"]
    assert second["global_step"] == 12


def test_float16_scales_the_loss(tmp_path: Path):
    with pytest.warns(UserWarning, match="float16"):
        trainer = make_trainer(tmp_path, use_amp=True, amp_dtype="float16")
    trainer.train()
    assert lines_of(tmp_path)[-1]["train/loss_scale"] in (2**15, 2**16)  # the first may be too large


def test_distributed_alone_warns(tmp_path: Path):
    with pytest.warns(UserWarning, match="torchrun"):
        make_trainer(tmp_path, distributed=True)


class Wrong(nn.Module):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.output = output

    def forward(self, batch: Any) -> Any:
        return self.output(self.weight)


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        (lambda weight: weight.sum(), ConfigError, 'must return a dict with "loss"; got Tensor'),
        (lambda weight: {"los": weight.sum()}, ConfigError, "Known: los"),
        (lambda weight: {"loss": weight}, ConfigError, "must be one number"),
        (lambda weight: {"loss": weight.sum() * math.nan}, NonFiniteError, "step 1"),
    ],
)
def test_what_a_model_must_return(tmp_path: Path, output: Any, error: type[Exception], message: str):
    trainer = Trainer(Wrong(output), DataLoader(Points(), batch_size=4), make_config(tmp_path))
    with pytest.raises(error, match=message):
        trainer.train()
    assert not list(tmp_path.glob("*.pt"))


def test_what_is_no_model_or_no_data(tmp_path: Path):
    loader = DataLoader(Points(), batch_size=4)
    with pytest.raises(ConfigError, match=r"torch.nn.Module; got a function"):
        Trainer(lambda batch: batch, loader, make_config(tmp_path))  # type: ignore[arg-type, return-value]
    with pytest.raises(DataError, match="eval_loader gave no batch"):
        Trainer(Linear(), loader, make_config(tmp_path), eval_loader=[]).evaluate()
    with pytest.raises(ConfigError, match="eval_fn must return numbers by name; got a str"):
        Trainer(Linear(), loader, make_config(tmp_path), eval_fn=lambda model: "good").evaluate()


def test_a_device_that_is_not_here(tmp_path: Path):
    with pytest.raises(ConfigError, match="cuda:7"):
        Trainer(Linear(), DataLoader(Points(), batch_size=4), TrainConfig(device="cuda:7"))
