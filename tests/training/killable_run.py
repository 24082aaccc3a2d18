"""Short training runs in one or two processes of their own, for the tests that kill them.

The processes are forks of one that has imported torch, so that starting one costs milliseconds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from envs.counting import Counting
from training.faulty_disk import written_by
from training.rank_pool import Rendezvous
from training.ranked import make_buffer
from training.tiny_training import TinyModel, TinySampler, make_config
from worldline import files
from worldline.batch import Batch
from worldline.data.buffer import ReplayBuffer
from worldline.data.online import OnlineSampler
from worldline.envs.rows import RowEnv
from worldline.envs.vector import VectorEnv
from worldline.evaluation.rollout import RandomPolicy
from worldline.training import (
    Callback,
    CheckpointCallback,
    DataCallback,
    EarlyStoppingCallback,
    LoggingCallback,
    Trainer,
)
from worldline.training import trainer as trainer_module
from worldline.training.callbacks.base import Order
from worldline.training.checkpoint import list_checkpoints
from worldline.training.interrupts import Interrupts

TOTAL_STEPS = 24
SAVE_INTERVAL = 5
MODES = ("offline", "background", "online", "rollback")
_MAX_SECONDS = 120  # without a word from any process
_SAVES = {CheckpointCallback._save.__code__, CheckpointCallback._write.__code__}  # the latter perhaps in a thread


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of one run."""

    directory: Path
    mode: str = "offline"  # "background" writes so, "online" collects its data, "rollback" has batches with NaN
    num_ranks: int = 1  # processes that train together
    # The operation on the disk before which (if it is a write, in which) the first process waits for being killed.
    pause_at: int = 0
    total_steps: int = TOTAL_STEPS
    save_interval: int = SAVE_INTERVAL
    flushes: bool = False  # a process that is killed loses nothing that it has written, so that most tests do without


class Pausing:
    """In the place of `files.change`: counts, and waits for ever at one operation, in the middle of it if it writes."""

    def __init__(self, pipe: Connection, pause_at: int, *, flushes: bool) -> None:
        self.pipe, self.pause_at, self.flushes = pipe, pause_at, flushes
        self.num_calls = 0

    def __call__(self, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.num_calls += 1
        if self.num_calls == self.pause_at:
            if written := written_by(operation, args):
                operation(*args, **kwargs)
                os.truncate(written, written.stat().st_size // 2)
            is_in_save = any(frame.f_code in _SAVES for frame, _ in traceback.walk_stack(None))
            self.pipe.send(("paused", int(is_in_save), time.monotonic()))
            with contextlib.suppress(EOFError, ConnectionResetError):
                self.pipe.recv()  # nothing comes but the end of the test process, which nothing here shall outlive
            os._exit(1)
        return None if operation is os.fsync and not self.flushes else operation(*args, **kwargs)


class AnnouncingInterrupts(Interrupts):
    """Says that a signal was noted; to be used where none comes while something else is said."""

    pipe: Connection

    def _note(self, number: int, frame: Any) -> None:
        super()._note(number, frame)
        self.pipe.send(("noted", number, time.monotonic()))


class Announce(Callback):
    """Says every step, and when it ended."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe

    def on_step_end(self, step: int, losses: Mapping[str, Tensor]) -> None:
        self.pipe.send(("step", step, time.monotonic()))


class AnnounceEnd(Callback):
    """Says when the last checkpoint is written."""

    order = Order.SAVE  # and added after the callback that saves

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe

    def on_train_end(self) -> None:
        self.pipe.send(("saved", self.trainer.step, time.monotonic()))


class ActingModel(nn.Module):
    """Learns from what it does, by chance, in `Counting`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))

    def compute_loss(self, batch: Batch) -> dict[str, Tensor]:
        values = (self.net(batch.obs / 1e3) * batch.actions).sum(-1)
        return {"loss": (values - batch.rewards / 10)[batch.step_mask].square().mean()}

    def param_groups(self) -> Any:
        return TinyModel.param_groups(self)  # type: ignore[arg-type]

    def after_update(self) -> None:
        pass

    group: dict[str, Any] = {}  # noqa: RUF012

    def act(self, obs: Tensor, state: Any = None, *, is_first: Any = None, deterministic: bool = False) -> Any:
        choice = torch.multinomial(self.net(obs / 1e3).softmax(-1), 1)[:, 0]
        return nn.functional.one_hot(choice, 2).float(), None


def train(settings: Settings, environment: Mapping[str, str], pipe: Connection) -> None:
    """Train in this process, resuming if there is something to resume, and say how many operations it took."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    pause_at = settings.pause_at if environment["RANK"] == "0" else 0
    disk = files.change = Pausing(pipe, pause_at, flushes=settings.flushes)  # type: ignore[assignment]
    if pause_at:
        AnnouncingInterrupts.pipe = pipe
        trainer_module.Interrupts = AnnouncingInterrupts  # type: ignore[misc]
    callbacks: list[Callback] = [
        Announce(pipe),
        EarlyStoppingCallback(patience=1000),
        LoggingCallback(settings.directory, log_interval=1, use_tensorboard=False, console=False),
        CheckpointCallback(
            settings.directory / "checkpoints",
            settings.save_interval,
            max_checkpoints=2,
            background=settings.mode == "background",
        ),
        AnnounceEnd(pipe),
    ]
    model: nn.Module
    if settings.mode == "online":
        model = ActingModel()
        data: Any = _open_sampler(model, settings.directory / "replay")
        callbacks.append(DataCallback(data))
    else:
        model, data = TinyModel(algorithm="laprop", eps=1e-20, agc=0.3), make_buffer()
    config = make_config(total_steps=settings.total_steps)
    if settings.mode == "rollback":
        data = TinySampler(poisoned=(4, 11, 12, 20))
        config = dataclasses.replace(config, on_anomaly="rollback", ema_decay=0.9, num_micro_batches=2)
    checkpoints = settings.directory / "checkpoints"
    resume_from = checkpoints if list_checkpoints(checkpoints) else None  # before the processes meet: none writes yet
    trainer = Trainer(model, config, callbacks)
    try:
        trainer.train(data, resume_from=resume_from)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    pipe.send(("finished", disk.num_calls, time.monotonic()))


def _open_sampler(model: Any, directory: Path) -> OnlineSampler:
    env = VectorEnv([RowEnv(Counting()) for _ in range(2)])
    spec = env.data_spec
    buffer = ReplayBuffer(10_000, spec.obs_shape, spec.action_dim, action_sizes=spec.action_sizes)
    policy = RandomPolicy(spec)
    return OnlineSampler(
        env, model, buffer, seed_policy=policy, seed_steps=10, replay_ratio=0.5, seed=3, replay_dir=directory
    )


class Run:
    """A run in processes of its own; if one of them fails, the others are asked to end, as `torchrun` asks them.

    A context that leaves no process behind.
    """

    def __init__(self, settings: Settings) -> None:
        _warm_up()
        self._rendezvous = Rendezvous(settings.num_ranks)
        self._processes: list[_Process] = []
        try:
            for rank in range(settings.num_ranks):
                self._processes.append(_Process(settings, self._rendezvous.environment(rank)))
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._processes:
            process.signal(signal.SIGKILL)
            process.join()

    @property
    def events(self) -> list[tuple[str, int, float]]:
        """What the first process has said so far: (kind, number, time).

        The number is the step of "step" and "saved", 1 inside a save and 0 elsewhere of "paused", that of the signal of
        "noted", and the operations on the disk so far of "finished".
        """
        return self._processes[0].events

    def wait_for(self, kind: str, number: int = 0, *, rank: int = 0) -> bool:
        """Wait until a process says `kind` with at least `number`; return False if it ended before."""
        process = self._processes[rank]
        while not (process.events and process.events[-1][0] == kind and process.events[-1][1] >= number):
            if not process.hear():
                return False
        return True

    def signal(self, number: int, *, rank: int = 0) -> float:
        """Send a process a signal and return when that was."""
        return self._processes[rank].signal(number)

    def end(self) -> list[int]:
        """Wait until all end and return their exit statuses; minus the number of the signal that killed one."""
        running = {process.pipe: process for process in self._processes}
        while running:
            ready = wait(list(running), timeout=_MAX_SECONDS)
            if not ready:
                raise TimeoutError(f"{len(running)} processes have said nothing for {_MAX_SECONDS} s.")
            for pipe in [pipe for pipe in ready if not running[pipe].hear()]:  # type: ignore[index]
                if running.pop(pipe).join() != 0:  # type: ignore[call-overload]
                    for other in running.values():
                        other.signal(signal.SIGTERM)
        return [process.join() for process in self._processes]


class _Process:
    """One of the processes of a run, and what it has said so far."""

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("forkserver")
        self.events: list[tuple[str, int, float]] = []
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=train, args=(settings, environment, theirs))
        self._process.start()
        theirs.close()
        assert self._process.pid is not None
        # Where there are none (macOS), the number might be another process's by then, if rarely.
        self._descriptor = os.pidfd_open(self._process.pid) if sys.platform == "linux" else None

    def hear(self) -> bool:
        """Wait until it says something; return False if it ends instead."""
        if not self.pipe.poll(_MAX_SECONDS):
            raise TimeoutError(f"A process has said nothing for {_MAX_SECONDS} s, after {self.events[-1:]}.")
        try:
            self.events.append(self.pipe.recv())
        except (EOFError, ConnectionResetError):
            return False
        return True

    def signal(self, number: int) -> float:
        if self._process.exitcode is None:
            assert self._process.pid is not None
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                if self._descriptor is None:
                    os.kill(self._process.pid, number)
                else:
                    signal.pidfd_send_signal(self._descriptor, number)
        return time.monotonic()

    def join(self) -> int:
        """Wait until it has ended, and return its exit status."""
        self._process.join()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        assert self._process.exitcode is not None
        return self._process.exitcode


def outcome(directory: Path) -> dict[str, Any]:
    """Return all of a finished run's folder that does not depend on the clock."""
    last = directory / "checkpoints" / f"step_{TOTAL_STEPS:08d}"
    state = json.loads((last / "state.json").read_text())
    state["callbacks"].pop("LoggingCallback", None)  # how long it took
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return {
        "bad batches": sorted(path.name for path in directory.glob("nonfinite_*")),
        "losses": [[line.get(name) for name in ("step", "loss", "error", "grad_norm")] for line in lines],
        "state": state,
        **{name: (last / f"{name}.safetensors").read_bytes() for name in ("model", "optimizer", "rng")},
    }


def _warm_up() -> None:
    """Start the process that is forked, with this module and all that it needs loaded."""
    before = os.environ.get("PYTHONPATH")
    root = str(Path(__file__).parent.parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([root, *([before] if before else [])])
    try:
        # DistributedDataParallel imports the second one when it is first built, for more than a second.
        forkserver.set_forkserver_preload([__name__, "torch._dynamo"])
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
