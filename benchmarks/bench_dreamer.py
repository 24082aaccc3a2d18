"""One DreamerV3 step (loss, gradients, optimiser, slow critic) per size and precision, against its arithmetic.

One core. `gflop` is what the step multiplies and adds in matrix products and convolutions, counted as it runs;
`gemm_gflops` the fastest rate at which this machine multiplies matrices of the size that dominates the step, in the
same precision, measured in between; `floor_s` their quotient, and `ratio` how many times that the step takes: what is
left to gain. Rate and time are the best of many: what else runs on a machine only ever adds. `calls` are the operators
that torch dispatches in a step. Prints one JSON object.

    python benchmarks/bench_dreamer.py
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from worldline.batch import Batch
from worldline.create import create_model
from worldline.memory import keep_freed_memory
from worldline.models.dreamerv3 import DreamerV3
from worldline.ops.linear import product
from worldline.training.optim import build_optimizer

CPUINFO = Path("/proc/cpuinfo")
ROUNDS = 9
# (name, size, settings, batch, rows, precision, limit of the ratio or None, limit in seconds or None)
CASES: tuple[tuple[str, str, dict[str, Any], int, int, str, float | None, float | None], ...] = (
    ("vector 16 x 64", "size1m", {"obs_shape": (4,)}, 16, 64, "fp32", None, 0.25),
    ("vector 16 x 64", "size1m", {"obs_shape": (4,)}, 16, 64, "bf16", None, None),
    ("vector 16 x 64", "size12m", {"obs_shape": (4,)}, 16, 64, "fp32", 1.35, 2.5),
    ("vector 16 x 64", "size12m", {"obs_shape": (4,)}, 16, 64, "bf16", 1.6, 1.5),
    ("image 64 x 64 x 3, 4 x 32", "size12m", {"obs_shape": (64, 64, 3)}, 4, 32, "fp32", None, None),
    ("image 64 x 64 x 3, 4 x 32", "size12m", {"obs_shape": (64, 64, 3)}, 4, 32, "bf16", None, None),
)


class CallCounter(TorchDispatchMode):
    """Counts dispatched operators."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def environment() -> dict[str, str | int]:
    """Return what the figures depend on."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
    }


def processor() -> str:
    """Return the processor's name, where Linux tells it, or its kind."""
    lines = CPUINFO.read_text(encoding="utf-8").splitlines() if CPUINFO.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def make_batch(obs_shape: tuple[int, ...], batch_size: int, rows: int) -> Batch:
    """Return random windows, a quarter of which begin an episode."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, rows)
    is_first = torch.zeros(shape, dtype=torch.bool)
    is_first[: batch_size // 4, 0] = True
    real = torch.ones(shape, dtype=torch.bool)
    if len(obs_shape) == 3:
        obs = torch.randint(0, 256, (*shape, *obs_shape), dtype=torch.uint8, generator=generator)
    else:
        obs = torch.randn(*shape, *obs_shape, generator=generator)
    return Batch(
        obs=obs,
        actions=torch.eye(2)[torch.randint(0, 2, shape, generator=generator)],
        rewards=torch.randn(shape, generator=generator),
        terminations=~real,
        is_first=is_first,
        step_mask=real,
        obs_mask=real,
    )


def make_step(size: str, settings: dict[str, Any], batch: Batch, precision: str) -> Callable[[], None]:
    """Return a function that takes one training step."""
    torch.manual_seed(0)
    model = create_model(f"dreamerv3:{size}", action_dim=2, **settings).train()
    assert isinstance(model, DreamerV3)
    optimizer = build_optimizer(model, model.param_groups(), weight_decay=0.0, grad_clip=0.0)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = model.compute_loss(batch)["loss"]
        loss.backward()
        optimizer.step(4e-5, optimizer.measure())
        model.after_update()

    return step


def count(step: Callable[[], None]) -> tuple[float, int]:
    """Return the GFLOP and the operator calls of a step."""

    def linear_flop(x: Any, weight: Any, *_: Any, **__: Any) -> int:
        return 2 * x[0] * x[1] * weight[0]

    flops = FlopCounterMode(display=False, custom_mapping={torch.ops.mkldnn._linear_pointwise: linear_flop})
    with flops:
        step()
    calls = CallCounter()
    with calls:
        step()
    return flops.get_total_flops() / 1e9, calls.calls


def gemm_rate(precision: str) -> float:
    """Return the GFLOP/s of a product of [1024, 768] and [768, 2048], the best of many."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x, weight = torch.randn(1024, 768).to(dtype), torch.randn(2048, 768).to(dtype)
    product(x, weight)
    best = min(seconds(lambda: product(x, weight)) for _ in range(50))
    return 2 * 1024 * 768 * 2048 / best / 1e9


def seconds(function: Callable[[], Tensor | None]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    """Measure all cases and print the result."""
    torch.set_num_threads(1)
    keep_freed_memory()
    rows = []
    for name, size, settings, batch_size, length, precision, ratio_limit, second_limit in CASES:
        step = make_step(size, settings, make_batch(settings["obs_shape"], batch_size, length), precision)
        step()
        gflop, calls = count(step)
        rates, times = [], []
        for _ in range(ROUNDS):
            rates.append(gemm_rate(precision))
            times.append(seconds(step))
        rate, duration = max(rates), min(times)
        rows.append(
            {
                "case": name,
                "size": size,
                "precision": precision,
                "step_s": round(duration, 3),
                "limit_s": second_limit,
                "gflop": round(gflop, 1),
                "gemm_gflops": round(rate),
                "floor_s": round(gflop / rate, 3),
                "ratio": round(duration * rate / gflop, 2),
                "limit": ratio_limit,
                "calls": calls,
            }
        )
    print(json.dumps({"name": "dreamer", "rows": rows, "environment": environment()}))


if __name__ == "__main__":
    main()
