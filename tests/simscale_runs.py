"""Small runs of SimScaleAI's trainer, for its tests: in this process, in several, and in one that is killed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from simscaleai.training.trainer import TrainConfig, Trainer

NUM_SAMPLES = 37  # of which the last batch of an epoch is incomplete


class Linear(nn.Module):
    """Learns a linear function, with dropout if asked for."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 2))

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        predicted = self.net(batch["observations"]["x"])
        error = predicted - batch["actions"]
        return {
            "loss": error.square().mean(),
            "absolute_error": error.abs().mean(),
            "scale": 2.0,
            "predicted_actions": predicted,
        }


class Points(Dataset[dict[str, Any]]):
    """Samples of a linear function, disturbed at each reading if asked for."""

    def __init__(self, noise: float = 0.0, num_samples: int = NUM_SAMPLES) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(num_samples, 3, generator=generator)
        self.y = self.x[:, :2] - self.x[:, 1:]
        self.noise = noise

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Any]:
        noise = self.noise * torch.randn(3) if self.noise else torch.zeros(3)
        return {"observations": {"x": self.x[index] + noise}, "actions": self.y[index], "language": "go"}


def make_config(folder: Path, **settings: Any) -> TrainConfig:
    values: dict[str, Any] = {"max_steps": 12, "lr": 1e-2, "warmup_steps": 2, "save_every": 5, "eval_every": 4}
    values |= {"log_every": 3, "device": "cpu", "use_amp": False, "checkpoint_dir": str(folder)}
    return TrainConfig(**(values | settings))


def make_trainer(
    folder: Path,
    *,
    batch_size: int = 8,
    noise: float = 0.0,
    dropout: float = 0.0,
    num_workers: int = 0,
    eval_fn: Callable[[Any], Any] | None = None,
    **settings: Any,
) -> Trainer:
    train = DataLoader(Points(noise), batch_size=batch_size, shuffle=True, num_workers=num_workers)
    held_out = DataLoader(Points(num_samples=11), batch_size=4)
    return Trainer(Linear(dropout), train, make_config(folder, **settings), held_out, eval_fn)


def train(folder: Path, **settings: Any) -> dict[str, Any]:
    """Train, and return the result and the weights as arrays: to be called in several processes."""
    trainer = make_trainer(folder, **settings)
    result = trainer.train()
    weights = {name: tensor.detach().numpy() for name, tensor in trainer.model.state_dict().items()}
    return {"result": result, "weights": weights}


def weights_of(path: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(path, weights_only=True)["model_state_dict"]
    return found


if __name__ == "__main__":  # python simscale_runs.py FOLDER
    fast = Points.__getitem__

    def slow(points: Points, index: int) -> dict[str, Any]:
        time.sleep(0.001)  # so that it is there long enough to be killed
        return fast(points, index)

    Points.__getitem__ = slow  # type: ignore[method-assign]
    make_trainer(Path(sys.argv[1]), noise=0.1, dropout=0.2, max_steps=200, save_every=20).train()
