"""What a training step costs beyond its arithmetic: a tiny MLP in bare PyTorch loops, in ours, and in other trainers.

One core. All cases alternate within one run, round after round, and the median of the rounds counts, so that a
change of the machine's speed hits them all. Every case trains the same network on the same batch; `ratio` is to the
loop that people write by hand. Then the optimisers alone, clipping included, on 10M parameters in 82 tensors, where
`ratio` is to torch's default AdamW with clip_grad_norm_. Prints one JSON object.

    python benchmarks/bench_trainer.py
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

from worldline.batch import Batch
from worldline.protocols import ParamGroup
from worldline.training import Trainer, TrainingConfig
from worldline.training.callbacks import Callback
from worldline.training.optim import build_optimizer

STEPS = 300  # of one case in one round
ROUNDS = 15
BATCH, FEATURES, WIDTH = 16, 16, 64
LIMIT = 0.75
LARGE_ROUNDS = 9

# Runs that many steps and returns the seconds they took, preparation excluded.
Run = Callable[[int], float]


class TinyModel(nn.Module):
    """Two hidden layers: 11 operators forward, a millionth of a second of arithmetic each."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(FEATURES, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1)
        )

    def forward(self, obs: Tensor, target: Tensor) -> Tensor:
        return (self.net(obs).squeeze(-1) - target).square().mean()

    def compute_loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self(batch.obs, batch.rewards)}

    def param_groups(self) -> Sequence[ParamGroup]:
        return [ParamGroup(name="all", params=list(self.parameters()))]

    def after_update(self) -> None:
        pass


class OneBatch:
    """A sampler that always gives the same batch, so that data costs nothing."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        obs = torch.randn(BATCH, 1, FEATURES, generator=generator)
        real = torch.ones(BATCH, 1, dtype=torch.bool)
        self.batch = Batch(
            obs=obs,
            actions=torch.zeros(BATCH, 1, 1),
            rewards=obs.sum(-1),
            terminations=~real,
            is_first=~real,
            step_mask=real,
            obs_mask=real,
        )

    def sample(self, batch_size: int, seq_len: int | None = None, device: str = "cpu") -> Batch:
        return self.batch


class Repeated:
    """An iterable that gives the same thing again and again (Lightning takes a list for a list of loaders)."""

    def __init__(self, item: object, times: int) -> None:
        self.item, self.times = item, times

    def __len__(self) -> int:
        return self.times

    def __iter__(self) -> Iterator[object]:
        return itertools.repeat(self.item, self.times)


class Clock(Callback):
    """Times the loop from its first to its last step."""

    def on_train_begin(self) -> None:
        self.started = time.perf_counter()

    def on_train_end(self) -> None:
        self.seconds = time.perf_counter() - self.started


def main() -> None:
    """Time every case and print the JSON object."""
    torch.set_num_threads(1)
    cases: dict[str, Run | None] = {
        "forward and backward alone": arithmetic(),
        "bare loop: AdamW, clipping, scheduler": bare(fused=False, scheduler=True),
        "bare loop: fused AdamW, clipping, scheduler": bare(fused=True, scheduler=True),
        "bare loop: the same flat optimiser": bare_flat(),
        "worldline.Trainer": ours(),
        "accelerate": accelerate(),
        "lightning, everything off": lightning(),
    }
    times: dict[str, list[float]] = {name: [] for name, run in cases.items() if run is not None}
    for round_number in range(ROUNDS + 1):
        for name, run in cases.items():
            if run is not None:
                seconds = run(STEPS)
                if round_number > 0:  # the first one warms up
                    times[name].append(seconds / STEPS * 1e6)
    rows = as_rows(times, reference="bare loop: AdamW, clipping, scheduler")
    rows += [{"case": name, "note": "not installed"} for name, run in cases.items() if run is None]
    rows += as_rows(time_large(), reference="10M parameters: AdamW, clipping")
    print(json.dumps({"name": "trainer", "rows": rows, "environment": environment()}))


def as_rows(times: dict[str, list[float]], *, reference: str) -> list[dict[str, Any]]:
    """Return a row per case: its median and the ratio to that of `reference`."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    rows = []
    for name, micros in medians.items():
        row: dict[str, Any] = {"case": name, "us": round(micros, 1), "ratio": round(micros / medians[reference], 3)}
        rows.append(row | ({"limit": LIMIT} if name == "worldline.Trainer" else {}))
    return rows


def time_large() -> dict[str, list[float]]:
    """Time one clipped optimiser step on 10M parameters, microseconds of every round."""
    cases = {
        "10M parameters: AdamW, clipping": large_torch(fused=False),
        "10M parameters: fused AdamW, clipping": large_torch(fused=True),
        "10M parameters: our AdamW, clipping": large_ours(),
        "10M parameters: our LaProp, adaptive clipping": large_ours(algorithm="laprop", eps=1e-20, agc=0.3),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    for round_number in range(LARGE_ROUNDS + 1):
        for name, step in cases.items():
            started = time.perf_counter()
            step()
            if round_number > 0:
                times[name].append((time.perf_counter() - started) * 1e6)
    return times


def large_parameters() -> nn.ParameterList:
    """Return 41 matrices and as many vectors with gradients, 10M numbers in all."""
    generator = torch.Generator().manual_seed(0)
    shapes = [shape for _ in range(41) for shape in ((512, 476), (512,))]
    parameters = nn.ParameterList([torch.randn(shape, generator=generator) for shape in shapes])
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return parameters


def large_torch(*, fused: bool) -> Callable[[], object]:
    """torch.optim.AdamW over the tensors."""
    parameters = large_parameters()
    optimizer = torch.optim.AdamW(parameters, lr=3e-4, weight_decay=0.0, fused=fused or None)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(parameters, 100.0)
        optimizer.step()

    return step


def large_ours(**group: Any) -> Callable[[], object]:
    """Our optimiser over the flat parameters."""
    parameters = large_parameters()
    grads = [parameter.grad for parameter in parameters]
    groups = [ParamGroup(name="all", params=list(parameters), **group)]
    optimizer = build_optimizer(parameters, groups, weight_decay=0.0, grad_clip=100.0)
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad.copy_(grad)
    return lambda: optimizer.step(3e-4, optimizer.measure())


def arithmetic() -> Run:
    """The floor: no optimiser, no clipping, no loop around it."""
    model, batch = TinyModel(), OneBatch().batch

    def run(steps: int) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            model.zero_grad()
            model.compute_loss(batch)["loss"].backward()
        return time.perf_counter() - started

    return run


def bare(*, fused: bool, scheduler: bool) -> Run:
    """The loop that people write by hand."""
    model, batch = TinyModel(), OneBatch().batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.0, fused=fused or None)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0) if scheduler else None

    def run(steps: int) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            model.compute_loss(batch)["loss"].backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
            optimizer.step()
            if schedule is not None:
                schedule.step()
        return time.perf_counter() - started

    return run


def bare_flat() -> Run:
    """Our optimiser in a loop without a trainer: what is left is what the trainer costs."""
    model, batch = TinyModel(), OneBatch().batch
    optimizer = build_optimizer(model, model.param_groups(), weight_decay=0.0, grad_clip=100.0)

    def run(steps: int) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            model.compute_loss(batch)["loss"].backward()
            optimizer.step(3e-4, optimizer.measure())
        return time.perf_counter() - started

    return run


def ours() -> Run:
    """The trainer with nothing extra enabled."""
    clock = Clock()
    trainer = Trainer(TinyModel(), TrainingConfig(device="cpu", total_steps=10**9), [clock])
    data = OneBatch()

    def run(steps: int) -> float:
        trainer.train(data, num_steps=steps)
        return clock.seconds

    return run


def accelerate() -> Run | None:
    """Hugging Face Accelerate around the loop that people write by hand."""
    if importlib.util.find_spec("accelerate") is None:
        return None
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    batch = OneBatch().batch
    model = TinyModel()
    adamw = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.0)
    prepared, optimizer, schedule = accelerator.prepare(
        model, adamw, torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: 1.0)
    )

    def run(steps: int) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            accelerator.backward(prepared(batch.obs, batch.rewards))
            accelerator.clip_grad_norm_(prepared.parameters(), 100.0)
            optimizer.step()
            schedule.step()
        return time.perf_counter() - started

    return run


def lightning() -> Run | None:
    """Lightning with logging, progress bar, checkpoints and summaries off."""
    if importlib.util.find_spec("lightning") is None:
        return None
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = TinyModel()

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            return self.model(*batch)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=3e-4, weight_decay=0.0)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

        def on_train_start(self) -> None:
            self.started = time.perf_counter()

        def on_train_end(self) -> None:
            self.seconds = time.perf_counter() - self.started

    batch = OneBatch().batch
    module = Module()

    def run(steps: int) -> float:
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_steps=steps,
            gradient_clip_val=100.0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, Repeated((batch.obs, batch.rewards), steps))
        return module.seconds

    return run


def environment() -> dict[str, Any]:
    """Return what the numbers depend on."""
    others = {
        name: importlib.metadata.version(name)
        for name in ("accelerate", "lightning")
        if importlib.util.find_spec(name) is not None
    }
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        **others,
    }


if __name__ == "__main__":
    main()
