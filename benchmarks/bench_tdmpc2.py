"""One update and one plan of TD-MPC2 5m, against the arithmetic and against the official code.

One core; batch 256, horizon 3, 24 numbers observed, 6 actions; a plan is for one environment, with the published
settings. `official_ms` are times of the official code (nicklashansen/tdmpc2) on one core of another machine; `ratio` is
ours over theirs. `gflop`, `gemm_gflops` and `floor_ms` are as in bench_dreamer.py. Times are the best of many. Prints
one JSON object.

    python benchmarks/bench_tdmpc2.py
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from bench_dreamer import count, environment, gemm_rate, seconds
from worldline.batch import Batch
from worldline.create import create_model
from worldline.memory import keep_freed_memory
from worldline.models.tdmpc2 import TDMPC2
from worldline.training.optim import build_optimizer

ROUNDS = 15
OBS, ACTIONS, BATCH, HORIZON = 24, 6, 256, 3
# (case, precision) -> milliseconds of the official code, limit of the ratio
OFFICIAL = {
    ("update", "fp32"): (646, 0.4),
    ("update", "bf16"): (325, 0.4),
    ("plan", "fp32"): (707, 0.4),
    ("plan", "bf16"): (337, 0.4),
}


def make_update(model: TDMPC2, precision: str) -> Callable[[], None]:
    """Return a function that takes one training step."""
    generator = torch.Generator().manual_seed(0)
    shape = (BATCH, HORIZON + 1)
    real = torch.ones(shape, dtype=torch.bool)
    batch = Batch(
        obs=torch.randn(*shape, OBS, generator=generator),
        actions=2 * torch.rand(*shape, ACTIONS, generator=generator) - 1,
        rewards=torch.randn(shape, generator=generator),
        terminations=~real,
        is_first=~real,
        step_mask=real,
        obs_mask=real,
    )
    optimizer = build_optimizer(model, model.param_groups(), weight_decay=0.0, grad_clip=20.0)

    def update() -> None:
        model.train()
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = model.compute_loss(batch)["loss"]
        loss.backward()
        optimizer.step(3e-4, optimizer.measure())
        model.after_update()

    return update


def make_plan(model: TDMPC2, precision: str) -> Callable[[], None]:
    """Return a function that plans one action from one observation."""
    obs = torch.randn(1, OBS, generator=torch.Generator().manual_seed(0))
    state = model.act(obs)[1]

    def plan() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            model.act(obs, state)

    return plan


def main() -> None:
    """Measure all cases and print the result."""
    torch.set_num_threads(1)
    keep_freed_memory()
    rows = []
    for (case, precision), (official, limit) in OFFICIAL.items():
        torch.manual_seed(0)
        model = create_model(
            "tdmpc2:5m", obs_shape=(OBS,), action_dim=ACTIONS, action_type="continuous", episodic=False
        )
        assert isinstance(model, TDMPC2)
        step = (make_update if case == "update" else make_plan)(model, precision)
        step()
        gflop, calls = count(step)
        rates, times = [], []
        for _ in range(ROUNDS):
            rates.append(gemm_rate(precision))
            times.append(seconds(step))
        duration = 1000 * min(times)
        rows.append(
            {
                "case": case,
                "precision": precision,
                "ours_ms": round(duration, 1),
                "official_ms": official,
                "ratio": round(duration / official, 2),
                "limit": limit,
                "gflop": round(gflop, 1),
                "gemm_gflops": round(max(rates)),
                "floor_ms": round(1000 * gflop / max(rates), 1),
                "calls": calls,
            }
        )
    print(json.dumps({"name": "tdmpc2", "rows": rows, "environment": environment()}))


if __name__ == "__main__":
    main()
