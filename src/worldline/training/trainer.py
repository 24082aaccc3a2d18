"""The training loop."""

from __future__ import annotations

import contextlib
import functools
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from worldline import seeding
from worldline.batch import Batch
from worldline.config import from_dict, to_dict
from worldline.memory import keep_freed_memory
from worldline.mode import measuring
from worldline.training.anomalies import Anomaly, RngState, save_offending_batch
from worldline.training.callbacks.base import Callback, named, restore_callback
from worldline.training.callbacks.progress import ProgressCallback
from worldline.training.checkpoint import Checkpoint, ResumeFrom, load_checkpoint
from worldline.training.config import TrainingConfig, changed_settings, learning_rate_at
from worldline.training.deterministic import deterministic_algorithms
from worldline.training.distributed import ALONE, ASKED_TO_STOP, StopVote, gather_rng, join, load_everywhere, own_rng
from worldline.training.interrupts import Interrupts
from worldline.training.metrics import to_floats
from worldline.training.optim import Optimizer
from worldline.training.source import Data, Source, fit_once, open_source, windows_of
from worldline.training.update import Updater

if TYPE_CHECKING:
    from rich.console import Console

ModelT = TypeVar("ModelT", bound=nn.Module)
Status = Literal["idle", "running", "finished", "stopped", "interrupted", "failed"]


class Trainer(Generic[ModelT]):
    """Trains a model on data.

    Attributes:
        model: The model, moved to the device.
        config: The settings.
        ranks: This process's place among those that train together; usually there are no others.
        callbacks: In the order in which they are called.
        step: Optimiser steps done so far, resumed ones included.
        last_step: The step at which the present or last `train` ends unless it is stopped.
        status: How the last `train` ended, or "running"; `stop_reason` is what `request_stop` was given.
        last_checkpoint: The newest checkpoint that this trainer wrote or resumed from.
        data_seconds: Time spent waiting for batches so far.
        num_rows: Rows of all batches, or of this process's shares of them, so far.

    Raises:
        ConfigError: The model is not trainable, or the device is not here.
    """

    def __init__(self, model: ModelT, config: TrainingConfig | None = None, callbacks: Iterable[Callback] = ()) -> None:
        self.config = config or TrainingConfig()
        self.ranks = join()
        self.device = torch.device(self.ranks.device(self.config.device))
        self._updater = Updater(model, self.config, self.device, self._record_anomaly, self.ranks)
        self.model = model.to(self._updater.home)
        self.callbacks: list[Callback] = []
        self.step = 0
        self.last_step = 0
        self.status: Status = "idle"
        self.stop_reason: str | None = None
        self._wanted_stop: str | None = None
        self.last_checkpoint: Path | None = None
        self.data_seconds = 0.0
        self.num_rows = 0
        self._data: Data | None = None
        self._source: Source | None = None
        self._console: Console | None = None
        self._latest: tuple[int, Batch | None] = (0, None)
        for callback in callbacks:
            self.add_callback(callback)

    def add_callback(self, callback: Callback) -> None:
        """Attach `callback`. Those that record follow those that measure, and those that save come last.

        Of several processes, only the first one calls those that are `main_only`.
        """
        callback.trainer = self
        if callback.main_only and not self.ranks.is_main:
            return
        self.callbacks = sorted([*self.callbacks, callback], key=lambda item: item.order)

    def request_stop(self, reason: str) -> None:
        """End training after the present step; where several processes train, all do after the next one."""
        self._wanted_stop = reason
        if self.ranks.is_alone:
            self.stop_reason = reason

    @property
    def learning_rate(self) -> float:
        """The learning rate of the last step."""
        return learning_rate_at(self.config, max(self.step, 1))

    @property
    def optimizer(self) -> Optimizer:
        """The optimiser, built when it is first needed."""
        return self._updater.optimizer

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Run the body with the averaged weights in the model, where `ema_decay` is set; then put its own back."""
        with self._updater.averaged_weights():
            yield

    @property
    def console(self) -> Console:
        """The terminal (standard error) that callbacks share, so that their lines do not break a progress bar."""
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=True)
        return self._console

    def train(self, data: Data, num_steps: int | None = None, resume_from: ResumeFrom | None = None) -> ModelT:
        """Train up to `config.total_steps` in all, or for `num_steps` more, and return the model in evaluation mode.

        A first call seeds torch's generators with `config.seed`; a second one goes on where the first ended. Data
        that can `seek` is read in an order that depends on the seed and the step alone.

        Args:
            data: A sampler of either protocol (`ReplayBuffer`), or an iterable of batches, which is read again from
                its start when it ends.
            num_steps: Steps to do now; None for all that are left of `config.total_steps`.
            resume_from: A checkpoint, or a folder of them (the newest valid one is taken), or a function that reads
                one for the model it is given, called in the first process. Model, optimiser, generators, data order and
                callbacks continue as they were; docs/training.md ("Resuming") says when the result is the same bit for
                bit.

        Raises:
            NonFiniteError: A loss or gradient became NaN or infinite, and `on_anomaly` is "stop" or there were more
                than `max_anomalies`; the batch was saved.
            AnomalyError: The same for a loss that jumped, with `spike_threshold`.
            FileError: There is no valid checkpoint at `resume_from`.
            DataError: The checkpoint does not fit the model, or the data gave no batch.
            KeyboardInterrupt: Ctrl-C; the step was finished and the checkpoint callback, if any, saved it.
        """
        with Interrupts() as interrupts, deterministic_algorithms(self.config.deterministic):
            try:
                rng = self._prepare(data, resume_from)
                self._set_goal(num_steps)
                self._loop(rng, interrupts)
            finally:
                self.model.eval()
                self._updater.release()
        if interrupts.received is not None:
            self._leave(interrupts.received)
        return self.model

    def evaluate(self, data: Data, *, num_batches: int = 10) -> dict[str, float]:
        """Return the mean of what the model reports over `num_batches` batches, and tell the callbacks.

        The model is in evaluation mode and takes no gradients; data that can seek gives the same batches every time.
        Training goes on afterwards as if nothing had happened, also when it uses the same data (if that can seek).
        """
        source = self._open(data, seed=self.config.seed + 1, is_shared=False)

        def compute() -> dict[str, float]:
            totals: dict[str, Tensor] = {}
            for step in range(num_batches):
                for name, value in self._updater.compute_loss(source.batch(step)).items():
                    totals[name] = totals[name] + value if name in totals else value
            return {name: total / num_batches for name, total in to_floats(totals).items()}

        metrics = self.measure(compute)
        self.record_evaluation(metrics)
        return metrics

    def measure(self, compute: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Return what `compute` finds with the model in evaluation mode, without gradients and under its own seed.

        Of several processes, the first one computes and the others get what it found.
        """
        with self._updater.whole(), measuring(self.model, seed=self.config.seed):
            return self.ranks.first(compute)

    def record_evaluation(self, metrics: Mapping[str, float]) -> None:
        """Tell the callbacks the result of an evaluation at the present step."""
        for callback in self.callbacks:
            callback.on_eval_end(self.step, metrics)

    def capture(self) -> Checkpoint:
        """Return everything that a resumed run needs; the tensors are those in use, not copies.

        Raises:
            NonFiniteError: The weights are not finite, so they are not worth keeping.
        """
        self._updater.check()
        self._updater.check_weights(self.step)
        self._updater.gather()
        return Checkpoint(
            step=self.step,
            config={**to_dict(self.config), "device": str(self.device)},  # what "auto" meant
            model=dict(self.model.state_dict()),
            optimizer=self._updater.state_dict(),
            rng=gather_rng(self.ranks, self.device),
            # Written by the first process alone. Some write files of their own for it.
            callbacks={name: callback.state_dict() for name, callback in named(self.callbacks)}
            if self.ranks.is_main
            else {},
        )

    def parts(self) -> Mapping[str, Tensor]:
        """Return what this process has of the weights and buffers in use, by name; of divided ones, `DTensor`s."""
        return self._updater.parts()

    def _prepare(self, data: Data, resume_from: ResumeFrom | None) -> RngState | None:
        """Make everything ready for the loop and return the generators' state to start it with, if it is known."""
        keep_freed_memory(self.device.type)
        self.model.to(self._updater.home).train()
        self._updater.attach()
        self._data = data
        self._source = self._open_training()
        if resume_from is not None or self.step == 0:
            # Also before a resume: a checkpoint from another device lacks this one's generator.
            seeding.seed_everything(self.ranks.seed(self.config.seed))
        if resume_from is None and self.step == 0:
            fit_once(self.model, data)
        if resume_from is not None:
            read = resume_from if callable(resume_from) else functools.partial(load_checkpoint, Path(resume_from))
            checkpoint = load_everywhere(self.ranks, read, self.model)
            self._restore(checkpoint)
            if not self._source.is_seekable:
                warnings.warn(
                    "The data cannot seek, so the batches after the resume are other ones than they would have been. "
                    "Exact resume needs data with seek(seed=, step=), such as ReplayBuffer.",
                    stacklevel=3,
                )
            return own_rng(self.ranks, self.device, checkpoint.rng, seed=self.config.seed, step=self.step)
        return seeding.rng_state() if self.step == 0 else None

    def _open_training(self, *, is_shared: bool = True) -> Source:
        assert self._data is not None
        seed, num_kept = self.config.seed, self.config.overfit_batches
        return self._open(self._data, seed=seed, num_kept=num_kept, is_shared=is_shared)

    def _open(self, data: Data, *, seed: int, num_kept: int = 0, is_shared: bool = True) -> Source:
        config, ranks = self.config, self.ranks if is_shared else ALONE
        return open_source(
            data,
            batch_size=config.batch_size,
            sequence_length=config.sequence_length,
            device=self.device,
            seed=seed,
            windows=windows_of(self.model),
            num_kept=num_kept,
            place=(ranks.rank, ranks.num_ranks),
        )

    def _set_goal(self, num_steps: int | None) -> None:
        self.last_step = self.config.total_steps if num_steps is None else self.step + num_steps
        if self.step >= self.last_step:
            warnings.warn(
                f"Nothing to train: {self.step} steps are done and total_steps is {self.config.total_steps}. "
                "Pass num_steps, or a larger total_steps.",
                stacklevel=3,
            )
        config = self.config
        if self.step == 0 and config.warmup_steps > config.total_steps:
            warnings.warn(
                f"The learning rate rises for warmup_steps={config.warmup_steps}, but training ends after "
                f"{config.total_steps}, so it never reaches {config.learning_rate:g}. Shorten the warm-up.",
                stacklevel=3,
            )

    def _loop(self, rng: RngState | None, interrupts: Interrupts) -> None:
        """Run the steps between the first and the last call of every callback."""
        assert self._source is not None
        self.status, self.stop_reason, self._wanted_stop = "running", None, None
        with contextlib.ExitStack() as stack:  # every callback may close what it holds, even if one fails
            for callback in reversed(self.callbacks):
                stack.callback(callback.on_train_end)
            try:
                for callback in self.callbacks:
                    callback.on_train_begin()
                # The generators come last: whatever was built before may have drawn from them.
                if rng is not None:
                    seeding.set_rng_state(rng)
                self._run(self._source, interrupts)
            except BaseException:
                self.status = "failed"
                raise

    def _run(self, source: Source, interrupts: Interrupts) -> None:
        vote = StopVote(self.ranks)
        vote.send(self._wanted_stop, interrupts.received)
        while self.step < self.last_step and not vote.known:
            step = self.step + 1
            for callback in self.callbacks:
                callback.on_step_begin(step)
            started = time.perf_counter()
            batch = source.batch(self.step)
            self.data_seconds += time.perf_counter() - started
            self.num_rows += batch.rewards.numel()
            self._latest = (step, batch)
            losses = self._updater.step(step, batch)
            self.step = step
            self._obey(vote.receive(), interrupts)
            for callback in self.callbacks:
                callback.on_step_end(step, losses)
            vote.send(self._wanted_stop, interrupts.received)
        self._obey(vote.receive(), interrupts)
        self._updater.check()
        self._updater.gather()
        if interrupts.received is not None:
            self.status = "interrupted"
        else:
            self.status = "finished" if self.stop_reason is None else "stopped"

    def _obey(self, wish: int, interrupts: Interrupts) -> None:
        """Take over what any process wished, now that all know of it."""
        if wish == ASKED_TO_STOP:
            self.stop_reason = self._wanted_stop or "another process asked for it"
        elif wish:
            interrupts.received = signal.Signals(wish)

    def _restore(self, checkpoint: Checkpoint) -> None:
        self._warn_of_changes(checkpoint.config)
        self.model.load_state_dict(checkpoint.model)
        self._updater.scatter()
        self._updater.load_state_dict(checkpoint.optimizer)
        for name, callback in named(self.callbacks):
            if name in checkpoint.callbacks:
                restore_callback(callback, checkpoint.callbacks[name], where=f"{checkpoint.path}: {name}")
        self.step = checkpoint.step
        self.last_checkpoint = checkpoint.path

    def _warn_of_changes(self, saved: Mapping[str, Any]) -> None:
        changes = changed_settings(saved, self.config)
        device = str(saved.get("device"))
        if device.partition(":")[0] != self.device.type:
            changes.append(f"device {device!r} -> {str(self.device)!r}")
        if changes:
            warnings.warn(
                f"The run goes on with other settings than the checkpoint's ({', '.join(changes)}), "
                "so it is not the one that an uninterrupted run would have been.",
                stacklevel=4,
            )

    def _leave(self, received: signal.Signals) -> None:
        where = f"resume_from={str(self.last_checkpoint)!r}" if self.last_checkpoint else "the same trainer"
        message = f"Stopped by {received.name} after step {self.step}. Continue with trainer.train(data) and {where}."
        if received == signal.SIGINT:
            raise KeyboardInterrupt(message)
        if self.ranks.is_main:
            self.console.print(message, markup=False)
        raise SystemExit(128 + received)

    def _record_anomaly(self, anomaly: Anomaly) -> str:
        """Save the batch of a bad step (drawing it again where it is gone), and return a sentence that says where."""
        step, batch = self._latest
        if not self.ranks.is_main:
            return "The first process has what was saved of it."
        if step != anomaly.step or not self.ranks.is_alone:
            batch = None
        if batch is None and self._source is not None and self._source.is_seekable:
            batch = self._open_training(is_shared=False).batch(anomaly.step - 1)
        if batch is None:
            return "Its batch is gone, as the data cannot seek."
        directory = next((item.output_dir for item in self.callbacks if item.output_dir is not None), Path())
        try:
            folder = save_offending_batch(directory, batch, anomaly, seed=self.config.seed)
        except OSError as error:  # a full disk: training may go on all the same
            return f"Its batch could not be saved: {error}."
        return f"Its batch and generator state are in {folder}."


def train(
    model: ModelT,
    data: Data,
    *,
    callbacks: Iterable[Callback] | None = None,
    resume_from: ResumeFrom | None = None,
    **settings: Any,
) -> ModelT:
    """Train `model` on `data` and return it, in evaluation mode.

    Args:
        model: The model to train, in place.
        data: A `ReplayBuffer` or anything else that `Trainer.train` takes.
        callbacks: What happens around the loop; None shows the progress.
        resume_from: A checkpoint or a folder of them.
        **settings: Fields of `TrainingConfig`: `total_steps`, `batch_size`, `learning_rate`, ...

    Raises:
        ConfigError: An unknown setting (with the nearest known one) or an impossible value.
    """
    config = from_dict(TrainingConfig, settings)
    trainer = Trainer(model, config, [ProgressCallback()] if callbacks is None else callbacks)
    return trainer.train(data, resume_from=resume_from)
