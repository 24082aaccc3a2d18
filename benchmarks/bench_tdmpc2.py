"""One update and one plan of TD-MPC2 5m, against the arithmetic and against the official code.

One core; batch 256, horizon 3, 24 numbers observed, 6 actions; a plan is for one environment, with the published
settings; `compiled` is what `compile=True` trains with. `ratio` is our time over `official_ms`: that of the official
code, not compiled, in the same run, both taking turns, where TDMPC2_CODE names a copy of it (see official_tdmpc2.py);
else what it took on another machine. `gflop`, `gemm_gflops` and `floor_ms` are as in bench_dreamer.py. Times are the
best of many. Prints one JSON object.

    TDMPC2_CODE=.../tdmpc2/tdmpc2 python benchmarks/bench_tdmpc2.py
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from bench_dreamer import count, environment, gemm_rate, seconds
from official_tdmpc2 import official_steps
from worldline.batch import Batch
from worldline.create import create_model
from worldline.memory import keep_freed_memory
from worldline.models.tdmpc2 import TDMPC2
from worldline.training.compiling import compiled
from worldline.training.optim import build_optimizer

ROUNDS = 15
OBS, ACTIONS, BATCH, HORIZON = 24, 6, 256, 3
# (case, precision): milliseconds of the official code on another machine
ELSEWHERE = {("update", "fp32"): 646, ("update", "bf16"): 325, ("plan", "fp32"): 707, ("plan", "bf16"): 337}
CASES = (
    ("update", "fp32"),
    ("update", "bf16"),
    ("update, compiled", "bf16"),
    ("plan", "fp32"),
    ("plan", "bf16"),
)
LIMIT = 0.4


def make_update(model: TDMPC2, precision: str, *, is_compiled: bool) -> Callable[[], None]:
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
    compute_loss = compiled(model.compute_loss) if is_compiled else model.compute_loss

    def update() -> None:
        model.train()
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = compute_loss(batch)["loss"]
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
    official = official_steps(BATCH, HORIZON, OBS, ACTIONS)
    for case, precision in CASES:
        torch.manual_seed(0)
        model = create_model(
            "tdmpc2:5m", obs_shape=(OBS,), action_dim=ACTIONS, action_type="continuous", episodic=False
        )
        assert isinstance(model, TDMPC2)
        kind = case.split(",")[0]
        is_plan, is_compiled = kind == "plan", case != kind
        step = make_plan(model, precision) if is_plan else make_update(model, precision, is_compiled=is_compiled)
        first = seconds(step)
        gflop, calls = (None, None) if is_compiled else count(step)
        rates, ours, theirs = [], [], []
        for _ in range(ROUNDS):
            rates.append(gemm_rate(precision))
            ours.append(seconds(step))
            if official is not None:
                theirs.append(seconds(functools.partial(official[kind], precision)))
        official_ms = 1000 * min(theirs) if theirs else ELSEWHERE[kind, precision]
        rows.append(
            {
                "case": case,
                "precision": precision,
                "ours_ms": round(1000 * min(ours), 1),
                "official_ms": round(official_ms),
                "measured": "in this run" if theirs else "elsewhere",
                "ratio": round(1000 * min(ours) / official_ms, 2),
                "limit": LIMIT,
                "gflop": gflop and round(gflop, 1),
                "gemm_gflops": round(max(rates)),
                "floor_ms": gflop and round(1000 * gflop / max(rates), 1),
                "calls": calls,
                "compile_s": round(first, 1) if is_compiled else None,
            }
        )
    print(json.dumps({"name": "tdmpc2", "rows": rows, "environment": environment()}))


if __name__ == "__main__":
    main()
