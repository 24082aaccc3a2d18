"""Batches from a data set on disk: memory-mapped columns against per-sample readers of the same data in HDF5.

200 episodes of 500 steps, a state of 20 numbers and an image of 64 x 64 x 3, batches of 64 samples, one core. CPU time
in microseconds per batch, the file in the cache of the operating system; the readers take turns. Prints one JSON
object.

    python benchmarks/bench_dataset.py [STEPS PER EPISODE]

The baselines read as their projects do: `h5py` opens the file once and reads each sample's slices from cached handles;
`robomimic style` opens nothing twice either, but reads every key of every sample by its path, as robomimic's
`SequenceDataset` does without its cache; `DataLoader` is the same as `h5py` behind torch's loader in this process, with
its collation. `NumPy gather` is the floor: fancy indexing of the mapped columns at starts drawn beforehand.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import h5py
import numpy as np
import torch

from worldline.data.column_writer import write_columns
from worldline.data.dataset import Dataset
from worldline.data.formats.catalog import read_recording
from worldline.data.rows import RowEncoder

NUM_EPISODES, BATCH = 200, 64
STATE, IMAGE, ACTION = 20, (64, 64, 3), 4
CASES = (
    # name, keys, sequence length, limit in microseconds
    ("state, 1", ("state",), 1, 60),
    ("image, 1", ("image", "state"), 1, 250),
    ("image, 10", ("image", "state"), 10, 1000),
)
ROUNDS = 30
CALLS = {"columns": 64, "gather by number": 64, "NumPy gather": 64}  # in a round; the others once


def main() -> None:
    """Run every case and print the JSON object."""
    torch.set_num_threads(1)
    num_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    with tempfile.TemporaryDirectory() as folder:
        source, columns = Path(folder) / "data.h5", Path(folder) / "columns"
        make_file(source, num_steps)
        began = time.process_time()
        with read_recording(source) as recording:
            spec = recording.spec
            encoder = RowEncoder(spec.obs_shape, spec.action_dim, recording.obs_dtype, spec.action_sizes)
            write_columns(columns, encoder, recording.checked_blocks())
        rows: list[dict[str, Any]] = [{"case": "import", "cpu_us": round((time.process_time() - began) * 1e6)}]
        for name, keys, length, limit in CASES:
            readers = {
                "NumPy gather": make_floor(columns, keys, length),
                "columns": make_ours(columns, keys, length),
                "gather by number": make_by_number(columns, keys, length),
                "h5py": make_h5py(source, keys, length, num_steps),
                "DataLoader": make_loader(source, keys, length, num_steps),
                "robomimic style": make_robomimic(source, keys, length, num_steps),
            }
            for reader, micros in interleaved(readers).items():
                rows.append({"case": name, "reader": reader, "cpu_us": round(micros, 1)})
                rows[-1] |= {"limit": limit} if reader == "columns" else {}
    environment = {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__}
    environment |= {"h5py": h5py.__version__, "machine": platform.machine(), "steps": NUM_EPISODES * num_steps}
    print(json.dumps({"name": "dataset", "rows": rows, "environment": environment}, indent=2))


def make_file(path: Path, num_steps: int) -> None:
    """Write random episodes in the layout of one group per episode."""
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for number in range(NUM_EPISODES):
            group = file.create_group(f"episode_{number}")
            group["observations/state"] = generator.random((num_steps, STATE), dtype=np.float32)
            group["observations/image"] = generator.integers(0, 256, (num_steps, *IMAGE), dtype=np.uint8)
            group["actions"] = generator.random((num_steps, ACTION), dtype=np.float32)
            group["rewards"] = generator.random(num_steps, dtype=np.float32)


def make_ours(path: Path, keys: tuple[str, ...], length: int) -> Callable[[], object]:
    """Return a batch as the trainer gets it: windows drawn and gathered, as tensors."""
    data = Dataset(path, obs_keys=keys)
    return lambda: data.sample(BATCH, length)


def make_by_number(path: Path, keys: tuple[str, ...], length: int) -> Callable[[], object]:
    """Return a batch as a loader with a sampler of its own asks for it: by the numbers of its windows."""
    windows = Dataset(path, obs_keys=keys).windows_of(length)
    numbers = iter(np.random.default_rng(3).integers(0, windows.num_starts, (100_000, BATCH)))
    return lambda: windows.gather(windows.locate(next(numbers)))


def make_floor(path: Path, keys: tuple[str, ...], length: int) -> Callable[[], object]:
    """Return NumPy's own gather of observations and actions from the mapped files."""
    columns = [np.load(path / f"{name}.npy", mmap_mode="r") for name in (*(f"obs.{key}" for key in keys), "actions")]
    views = [np.lib.stride_tricks.sliding_window_view(np.asarray(column), length, axis=0) for column in columns]
    starts = iter(np.random.default_rng(1).integers(0, len(columns[0]) - length, (100_000, BATCH)))

    def floor() -> object:
        chosen = next(starts)
        return [view[chosen] for view in views]

    return floor


class Samples(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """One window of one episode at a time, from handles that stay open."""

    def __init__(self, path: Path, keys: tuple[str, ...], length: int, num_steps: int) -> None:
        self._file = h5py.File(path, "r")
        self._starts, self._length = num_steps + 1 - length, length
        self._columns = [
            {**{key: group["observations"][key] for key in keys}, "actions": group["actions"]}
            for group in (self._file[f"episode_{number}"] for number in range(NUM_EPISODES))
        ]

    def __len__(self) -> int:
        return NUM_EPISODES * self._starts

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        episode, start = divmod(number, self._starts)
        columns = self._columns[episode]
        return {key: torch.from_numpy(column[start : start + self._length]) for key, column in columns.items()}


def make_h5py(path: Path, keys: tuple[str, ...], length: int, num_steps: int) -> Callable[[], object]:
    """Return a loop over the samples, stacked."""
    samples = Samples(path, keys, length, num_steps)
    generator = np.random.default_rng(2)

    def batch() -> object:
        found = [samples[number] for number in generator.integers(0, len(samples), BATCH).tolist()]
        return {key: torch.stack([sample[key] for sample in found]) for key in found[0]}

    return batch


def make_loader(path: Path, keys: tuple[str, ...], length: int, num_steps: int) -> Callable[[], object]:
    """Return batches of torch's loader, in this process and with its own collation."""
    samples = Samples(path, keys, length, num_steps)
    sampler = torch.utils.data.RandomSampler(samples, replacement=True, num_samples=1 << 30)
    batches = iter(torch.utils.data.DataLoader(samples, BATCH, sampler=sampler))
    return lambda: next(batches)


def make_robomimic(path: Path, keys: tuple[str, ...], length: int, num_steps: int) -> Callable[[], object]:
    """Return batches of samples whose every key is looked up by its path in the file, stacked."""
    file = h5py.File(path, "r")
    generator = np.random.default_rng(4)
    names = [*(f"observations/{key}" for key in keys), "actions", "rewards"]

    def sample(number: int) -> dict[str, np.ndarray[Any, Any]]:
        episode, start = divmod(number, num_steps + 1 - length)
        return {name: file[f"episode_{episode}/{name}"][start : start + length].astype(np.float32) for name in names}

    def batch() -> object:
        count = NUM_EPISODES * (num_steps + 1 - length)
        found = [sample(number) for number in generator.integers(0, count, BATCH).tolist()]
        return {name: torch.from_numpy(np.stack([each[name] for each in found])) for name in names}

    return batch


def interleaved(readers: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median microseconds of CPU time of a call of each reader, in turn."""
    times: dict[str, list[float]] = {name: [] for name in readers}
    for round_number in range(ROUNDS + 2):
        for name, reader in readers.items():
            calls = CALLS.get(name, 1)
            began = time.process_time()
            for _ in range(calls):
                reader()
            if round_number >= 2:
                times[name].append((time.process_time() - began) / calls * 1e6)
    return {name: statistics.median(own) for name, own in times.items()}


if __name__ == "__main__":
    main()
