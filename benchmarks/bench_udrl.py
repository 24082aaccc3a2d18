"""Training upside-down RL: a plain loop over a DataLoader, and ours, over the same data.

One core. Both train the same network on batches of 256 rows drawn from the same 200,000, with AdamW, clipping and a
cosine schedule. The plain loop is what people write: a data set that returns (state, command, action) of one row, a
shuffling DataLoader, and torch's modules; it starts with commands that are computed already. The last rows are batches
alone, without a network. The cases alternate, round after round; microseconds are of CPU time, and the median of the
rounds counts. `ratio` is to the plain loop of the same size, `limit` what ours must stay below. The first round, in
which losses are compiled, does not count. Prints one JSON object.

    python benchmarks/bench_udrl.py
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from worldline.batch import WindowSpec
from worldline.create import create_model
from worldline.data.buffer import ReplayBuffer
from worldline.data.commands import compute_hindsight_commands
from worldline.models.udrl import SIZES
from worldline.ops.twohot import symlog
from worldline.training import Trainer, TrainingConfig
from worldline.training.callbacks import Callback

STEPS = 40  # of one case in one round
ROUNDS = 9
BATCH, OBS, ACTIONS, LENGTH, EPISODES = 256, 8, 2, 200, 1000
LIMIT = round(1 / 3, 3)
RATE = 1e-3


class Rows(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """One row at a time."""

    def __init__(self, states: Any, commands: Any, actions: Any) -> None:
        self.states, self.commands, self.actions = states, commands, actions

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        return (
            torch.from_numpy(self.states[index]),
            torch.from_numpy(self.commands[index]),
            torch.from_numpy(self.actions[index]),
        )


class PlainNet(nn.Module):
    """The network of `udrl`, of torch's modules."""

    def __init__(self, data: Rows, units: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(units if index else OBS, units) for index in range(layers))
        self.norm = nn.LayerNorm(units, elementwise_affine=False)
        self.embed, self.modulation = nn.Linear(4, 64), nn.Linear(64, 2 * units * layers)
        self.output = nn.Linear(units, 2 * ACTIONS)
        for name, rows in (("state", data.states), ("command", data.commands)):
            self.register_buffer(f"{name}_mean", torch.from_numpy(rows.mean(0)))
            self.register_buffer(f"{name}_std", torch.from_numpy(rows.std(0)))
        self.register_buffer("largest", symlog(torch.from_numpy(np.abs(data.commands).max(0))))

    def forward(self, state: Tensor, command: Tensor) -> tuple[Tensor, Tensor]:
        scaled = (command - self.command_mean) / self.command_std
        condition = F.silu(self.embed(torch.cat([scaled, symlog(command) / self.largest], -1)))
        scales, shifts = self.modulation(condition).unflatten(-1, (2, len(self.layers), -1)).unbind(1)
        x = (state - self.state_mean) / self.state_std
        for index, layer in enumerate(self.layers):
            x = F.silu(self.norm(layer(x)) * (1 + scales[:, index]) + shifts[:, index])
        mean, raw = self.output(x).chunk(2, -1)
        return mean, -5.0 + 3.5 * (torch.tanh(raw) + 1)

    def loss(self, state: Tensor, command: Tensor, action: Tensor) -> Tensor:
        mean, log_std = self(state, command)
        action = action.clamp(-0.999, 0.999)
        deviation = (torch.atanh(action) - mean) / log_std.exp()
        density = -0.5 * deviation**2 - log_std - 0.5 * math.log(2 * math.pi) - torch.log(1 - action**2)
        return -density.sum(-1).mean()


class Clock(Callback):
    """CPU seconds of the loop, from its first to its last step."""

    def on_train_begin(self) -> None:
        self.started = time.process_time()

    def on_train_end(self) -> None:
        self.seconds = time.process_time() - self.started


def main() -> None:
    """Time every case and print the JSON object."""
    torch.set_num_threads(1)
    buffer, rows = make_data()
    cases: dict[str, Callable[[], float]] = {}
    for size in ("small", "base"):
        cases[f"{size}: plain loop over a DataLoader"] = plain(rows, size)
        cases[f"{size}: worldline"] = ours(buffer, size)
        cases[f"{size}: worldline, bf16"] = ours(buffer, size, precision="bf16")
        cases[f"{size}: worldline, compiled"] = ours(buffer, size, compile=True)
        cases[f"{size}: worldline, compiled, bf16"] = ours(buffer, size, precision="bf16", compile=True)
    cases["batches: plain loop over a DataLoader"] = repeated(forever(loader_of(rows)).__next__)
    cases["batches: worldline"] = repeated(
        lambda: buffer.sample(BATCH, 1, windows=WindowSpec(pad_end=True, commands=True))
    )
    times: dict[str, list[float]] = {name: [] for name in cases}
    for round_number in range(ROUNDS + 1):
        for name, run in cases.items():
            seconds = run()
            if round_number > 0:  # the first one warms up
                times[name].append(seconds / STEPS * 1e6)
    medians = {name: statistics.median(values) for name, values in times.items()}
    table = []
    for name, micros in medians.items():
        reference = medians[f"{name.partition(':')[0]}: plain loop over a DataLoader"]
        row: dict[str, Any] = {"case": name, "us": round(micros), "ratio": round(micros / reference, 3)}
        table.append(row | ({"limit": LIMIT} if "worldline" in name else {}))
    environment = {"torch": torch.__version__, "python": platform.python_version(), "threads": 1}
    print(json.dumps({"name": "udrl", "rows": table, "environment": environment}))


def make_data() -> tuple[ReplayBuffer, Rows]:
    """Return the same episodes as a buffer and as rows."""
    generator = np.random.default_rng(0)
    num = EPISODES * LENGTH
    states = generator.normal(size=(num, OBS)).astype(np.float32)
    actions = generator.uniform(-1, 1, (num, ACTIONS)).astype(np.float32)
    rewards = generator.normal(size=num).astype(np.float32)
    buffer = ReplayBuffer(num, (OBS,), ACTIONS, action_sizes=())
    for start in range(0, num, LENGTH):
        piece = slice(start, start + LENGTH)
        buffer.add_episode(states[piece], actions[piece], rewards[piece], terminated=True)
    dones = np.arange(1, num + 1) % LENGTH == 0
    return buffer, Rows(states, compute_hindsight_commands(rewards, dones), actions)


def plain(rows: Rows, size: str) -> Callable[[], float]:
    """Return the loop that people write."""
    torch.manual_seed(0)
    model = PlainNet(rows, **SIZES[size])
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS * (ROUNDS + 1))
    batches = forever(loader_of(rows))

    def run() -> float:
        started = time.process_time()
        for _ in range(STEPS):
            state, command, action = next(batches)
            optimizer.zero_grad()
            loss = model.loss(state, command, action)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            scheduler.step()
        return time.process_time() - started

    return run


def repeated(function: Callable[[], object]) -> Callable[[], float]:
    """Return a run that calls `function`."""

    def run() -> float:
        started = time.process_time()
        for _ in range(STEPS):
            function()
        return time.process_time() - started

    return run


def loader_of(rows: Rows) -> DataLoader[tuple[Tensor, Tensor, Tensor]]:
    """Return the loader that people write."""
    return DataLoader(rows, batch_size=BATCH, shuffle=True, drop_last=True)


def forever(loader: DataLoader[tuple[Tensor, Tensor, Tensor]]) -> Iterator[Any]:
    """Yield batches, epoch after epoch."""
    while True:
        yield from loader


def ours(buffer: ReplayBuffer, size: str, **settings: Any) -> Callable[[], float]:
    """Return a run of our trainer, which goes on where the one before it stopped."""
    torch.manual_seed(0)
    model = create_model(f"udrl:{size}", obs_shape=(OBS,), action_dim=ACTIONS, action_type="continuous")
    config = TrainingConfig(
        total_steps=STEPS * (ROUNDS + 1),
        batch_size=BATCH,
        sequence_length=1,
        learning_rate=RATE,
        schedule="cosine",
        grad_clip=10.0,
        device="cpu",
        **settings,
    )
    clock = Clock()
    trainer = Trainer(model, config, callbacks=[clock])

    def run() -> float:
        trainer.train(buffer, num_steps=STEPS)
        return clock.seconds

    return run


if __name__ == "__main__":
    main()
