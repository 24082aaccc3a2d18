"""Replay sampling against the NumPy floor: the strided-window gather `view[starts]` of the same columns.

One core. Floor and library alternate within one run, each on starts of its own, so that neither finds the other's
rows in the cache. Prints one JSON object.

    python benchmarks/bench_replay.py
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided

from worldline.data.buffer import ReplayBuffer

EPISODE_STEPS = 1000
CALLS = 64
VECTOR_STEPS = 1_000_000
IMAGE_STEPS = 20_000
CASES = (
    # name, observation shape, B, T, repetitions, limit of the ratio
    ("vector [16, 50] of 1M", (24,), 16, 50, 100, 2.0),
    ("vector [256, 4] of 1M", (24,), 256, 4, 100, 1.2),
    ("pixels 64x64x3 [16, 50]", (64, 64, 3), 16, 50, 20, 1.2),
)


def main() -> None:
    """Run every case and print the JSON object."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for shape, steps in (((24,), VECTOR_STEPS), ((64, 64, 3), IMAGE_STEPS)):
        columns = make_columns(shape, steps)
        buffer = make_buffer(columns)
        for name, case_shape, batch, length, repetitions, limit in CASES:
            if case_shape == shape:
                floor, ours = make_floor(columns, batch, length), make_ours(buffer, batch, length)
                floor_us, ours_us = interleaved([floor, ours], repetitions)
                row = {"case": name, "floor_us": floor_us, "ours_us": ours_us, "ratio": ours_us / floor_us}
                rows.append({key: round_number(value) for key, value in row.items()} | {"limit": limit})
        if shape == (24,):
            rows += library_rows(columns)
    print(json.dumps({"name": "replay", "rows": rows, "environment": environment()}, indent=2))


def make_columns(shape: tuple[int, ...], steps: int) -> dict[str, Any]:
    """Return columns of `steps` steps: observations, 6 actions, rewards and four flags."""
    generator = np.random.default_rng(0)
    is_image = len(shape) == 3
    obs = (
        generator.integers(0, 256, (steps, *shape), dtype=np.uint8)
        if is_image
        else generator.random((steps, *shape), dtype=np.float32)
    )
    return {
        "obs": obs,
        "actions": generator.random((steps, 6), dtype=np.float32),
        "rewards": generator.random(steps, dtype=np.float32),
        "flags": np.zeros((steps, 4), dtype=np.bool_),
    }


def make_buffer(columns: dict[str, Any]) -> ReplayBuffer:
    """Return a buffer with the columns as episodes of 1,000 steps."""
    steps = len(columns["rewards"])
    buffer = ReplayBuffer(steps, columns["obs"].shape[1:], 6)
    for start in range(0, steps, EPISODE_STEPS):
        part = slice(start, start + EPISODE_STEPS)
        buffer.add_episode(columns["obs"][part], columns["actions"][part], columns["rewards"][part], truncated=True)
    return buffer


def make_floor(columns: dict[str, Any], batch: int, length: int) -> Callable[[], object]:
    """Return the floor: gather windows of every column at starts that were drawn beforehand."""
    views = [
        as_strided(column, (len(column) - length + 1, length, *column.shape[1:]), (column.strides[0], *column.strides))
        for column in columns.values()
    ]
    steps = len(columns["rewards"])
    starts = iter(np.random.default_rng(1).integers(0, steps - length, (10_000, batch)))

    def floor() -> object:
        chosen = next(starts)
        return [view[chosen] for view in views]

    return floor


def make_ours(buffer: ReplayBuffer, batch: int, length: int) -> Callable[[], object]:
    """Return our side: all of `sample`, drawing included."""
    buffer.seek(seed=2, step=0)
    return lambda: buffer.sample(batch, length)


def interleaved(functions: list[Callable[[], object]], repetitions: int) -> list[float]:
    """Return the median microseconds of a call of each function, in turn.

    A repetition is 64 calls, because the buffer draws the starts of 64 steps at once: its share is in every one.
    """
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repetitions):
        for function, own in zip(functions, times, strict=True):
            begin = time.perf_counter()
            for _ in range(CALLS):
                function()
            own.append((time.perf_counter() - begin) / CALLS)
    return [statistics.median(own[len(own) // 10 :]) * 1e6 for own in times]


def library_rows(columns: dict[str, Any]) -> list[dict[str, Any]]:
    """Return rows for other libraries with windows of the same columns, where they are installed."""
    rows: list[dict[str, Any]] = []
    for package, make in (("torchrl", make_torchrl), ("stable-worldmodel", None)):
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            rows.append({"case": package, "note": "not installed"})
            continue
        if make is None:
            rows.append({"case": f"{package} {version}", "note": "samples from files, not from memory"})
            continue
        for batch, length in ((16, 50), (256, 4)):
            (micros,) = interleaved([make(columns, batch, length)], 5)
            rows.append({"case": f"{package} {version} [{batch}, {length}]", "ours_us": round_number(micros)})
    return rows


def make_torchrl(columns: dict[str, Any], batch: int, length: int) -> Callable[[], object]:
    """Return TorchRL's slice sampler in its fastest setting: cached trajectories, strict length."""
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, SliceSampler
    from torchrl.data import ReplayBuffer as TorchRLBuffer

    steps = len(columns["rewards"])
    sampler = SliceSampler(slice_len=length, traj_key="episode", cache_values=True, strict_length=True)
    buffer = TorchRLBuffer(storage=LazyTensorStorage(steps), sampler=sampler, batch_size=batch * length)
    data = {name: torch.from_numpy(column) for name, column in columns.items()}
    data["episode"] = torch.arange(steps) // EPISODE_STEPS
    buffer.extend(TensorDict(data, batch_size=[steps]))
    return lambda: buffer.sample()


def environment() -> dict[str, Any]:
    """Return what the numbers depend on."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }


def round_number(value: Any) -> Any:
    """Return a float with the digits that mean something."""
    return round(value, 2) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
