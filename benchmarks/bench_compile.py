"""What `compile=True` is worth: a training step of behaviour cloning, eager and compiled, and how long compiling takes.

One core. Both alternate within one run, round after round; the median of the rounds counts, and `ratio` is to eager.
`largest_difference` is that of the losses of the first 20 steps of training. Prints one JSON object.

    python benchmarks/bench_compile.py
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor

from worldline.create import create_model
from worldline.data.synthetic import create_random_buffer
from worldline.training import Callback, Trainer, TrainingConfig

OBS, ACTIONS = 24, 6
CASES = {"bc:small": (4, 1), "bc:base": (16, 50)}  # windows in a batch and rows of a window
STEPS, ROUNDS = 20, 9


class Curve(Callback):
    """Keeps the losses and the time between the first and the last step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_begin(self) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, step: int, losses: Mapping[str, Tensor]) -> None:
        self.losses.append(losses["loss"].item())

    def on_train_end(self) -> None:
        self.seconds = time.perf_counter() - self.started


def main() -> None:
    """Time every case and print the JSON object."""
    torch.set_num_threads(1)
    rows = [row for model, (batch, length) in CASES.items() for row in measure(model, batch, length)]
    environment = {"torch": torch.__version__, "python": platform.python_version(), "threads": 1}
    print(json.dumps({"name": "compile", "rows": rows, "environment": environment}))


def measure(model: str, batch: int, length: int) -> list[dict[str, Any]]:
    """Return a row for the eager loss and one for the compiled."""
    data = create_random_buffer(20_000, (OBS,), ACTIONS, num_episodes=40, episode_length=200)
    trainers, curves, first = {}, {}, {}
    for name in ("eager", "compiled"):
        torch.manual_seed(0)
        trained = create_model(model, obs_shape=(OBS,), action_dim=ACTIONS, action_type=data.spec.action_type)
        settings = {"device": "cpu", "batch_size": batch, "sequence_length": length, "total_steps": 10**9}
        curves[name] = Curve()
        trainers[name] = Trainer(trained, TrainingConfig(**settings, compile=name == "compiled"), [curves[name]])
        trainers[name].train(data, num_steps=STEPS)
        first[name] = curves[name].seconds
    differences = [abs(a - b) for a, b in zip(curves["eager"].losses, curves["compiled"].losses, strict=True)]
    times: dict[str, list[float]] = {name: [] for name in trainers}
    for _ in range(ROUNDS):
        for name, trainer in trainers.items():
            trainer.train(data, num_steps=STEPS)
            times[name].append(curves[name].seconds / STEPS)
    medians = {name: statistics.median(values) for name, values in times.items()}
    rows: list[dict[str, Any]] = [
        {
            "case": f"{model}, {batch} x {length}, {name}",
            "ms": round(seconds * 1e3, 2),
            "ratio": round(seconds / medians["eager"], 3),
        }
        for name, seconds in medians.items()
    ]
    rows[1] |= {"compile_s": round(first["compiled"], 1), "largest_difference": max(differences), "limit": 1e-4}
    return rows


if __name__ == "__main__":
    main()
