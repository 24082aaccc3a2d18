"""One optimiser step: losses, gradients, clipping, parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from worldline import seeding
from worldline.batch import Batch
from worldline.errors import ConfigError, NonFiniteError
from worldline.protocols import Trainable
from worldline.training.config import TrainingConfig, learning_rate_at
from worldline.training.distributed import ALONE, Ranks
from worldline.training.finite import FiniteCheck
from worldline.training.optim import Optimizer, build_optimizer
from worldline.training.parallel import Parallel, parallelise


class Updater:
    """Computes the losses of a model that is on its device, and updates its parameters.

    Raises:
        ConfigError: The model is not trainable.
    """

    def __init__(self, model: nn.Module, config: TrainingConfig, device: torch.device, ranks: Ranks = ALONE) -> None:
        self._whole = _check_trainable(model)
        # Where several processes train together, what they compute together: the same thing to the step below.
        self._parallel: Parallel | None = parallelise(model, self._whole, config.strategy, ranks, device)
        self._trainable: Trainable = self._whole if self._parallel is None else self._parallel
        self._model = model
        self._config = config
        self._device = device
        self._optimizer: Optimizer | None = None
        # On the CPU the loss is there when the step returns; elsewhere looking at it would stall the device.
        self._finite = FiniteCheck(1 if device.type == "cpu" else config.log_interval)

    @property
    def optimizer(self) -> Optimizer:
        """The optimiser, built when it is first needed."""
        if self._optimizer is None:
            rules = {"weight_decay": self._config.weight_decay, "grad_clip": self._config.grad_clip}
            self._optimizer = (
                build_optimizer(self._model, self._trainable.param_groups(), **rules)
                if self._parallel is None
                else self._parallel.build_optimizer(**rules)
            )
        return self._optimizer

    def step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """Do the optimiser step `step`, counted from 1, and return its detached losses and "grad_norm".

        Raises:
            NonFiniteStep: A loss or gradient of this or an earlier step was NaN or infinite.
        """
        rng = seeding.rng_state()
        optimizer = self.optimizer
        optimizer.zero_grad()
        losses = self._at_precision(self._trainable, batch)
        torch.autograd.backward(losses["loss"])
        norms = optimizer.measure()
        metrics = {name: value.detach() for name, value in losses.items()}
        metrics["grad_norm"] = norms.total
        self._finite.add(step, rng, metrics["loss"], norms.total)
        optimizer.step(learning_rate_at(self._config, step), norms)
        self._trainable.after_update()
        return metrics

    def compute_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of `batch` at the configured precision, in this process alone."""
        return self._at_precision(self._whole, batch)

    def check(self) -> None:
        """Look at the losses of all steps so far.

        Raises:
            NonFiniteStep: One of them was NaN or infinite.
        """
        self._finite.check()

    def check_weights(self, step: int) -> None:
        """Check that all weights are finite after `step`. Waits for the device.

        Raises:
            NonFiniteError: They are not, so they are not worth keeping.
        """
        if not self.optimizer.is_finite():
            raise NonFiniteError(
                f"The weights are not finite after step {step}, so they are not saved. "
                "Resume from the last checkpoint with a lower learning_rate or grad_clip."
            )

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Run the body with the present weights in the model, and the model on the device."""
        if self._parallel is None:
            yield
        else:
            with self._parallel.whole():
                yield

    def parts(self) -> Mapping[str, Tensor]:
        """Return what this process has of the weights and buffers in use, by name."""
        return self._model.state_dict() if self._parallel is None else self._parallel.parts()

    @property
    def home(self) -> torch.device:
        """Where the model is while it is trained."""
        return self._device if self._parallel is None else self._parallel.home

    def attach(self) -> None:
        """Make ready for steps: the parameters move into the optimiser's memory."""
        self.scatter()
        self.optimizer.attach()

    def scatter(self) -> None:
        """Take over weights that were just written into the model."""
        if self._parallel is not None:
            self._parallel.scatter()

    def gather(self) -> None:
        """Bring the present weights into the model, where they are not used from there."""
        if self._parallel is not None:
            self._parallel.gather()

    def release(self) -> None:
        """Give the parameters memory of their own, if the optimiser has it."""
        if self._optimizer is not None:
            self._optimizer.release()

    def _at_precision(self, trainable: Trainable, batch: Batch) -> dict[str, Tensor]:
        if self._config.precision == "fp32":
            return trainable.compute_loss(batch)
        with torch.autocast(self._device.type, dtype=torch.bfloat16):
            return trainable.compute_loss(batch)


def _check_trainable(model: nn.Module) -> Trainable:
    if isinstance(model, nn.Module) and isinstance(model, Trainable):
        return model
    needed = ("compute_loss", "param_groups", "after_update")
    missing = [name for name in needed if name not in dir(model)]
    raise ConfigError(
        f"A trainable model is a torch.nn.Module with {', '.join(needed)}; {type(model).__name__} "
        f"{'lacks ' + ', '.join(missing) if missing else 'is none'}. Subclass worldline.models.base.Model."
    )
