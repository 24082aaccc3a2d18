"""One optimiser step: losses, gradients, clipping, parameters."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from worldline import seeding
from worldline.batch import Batch
from worldline.errors import ConfigError, NonFiniteError
from worldline.protocols import Trainable
from worldline.training.anomalies import Anomaly, AnomalyWatch
from worldline.training.averaging import WeightAverage
from worldline.training.compiling import ComputeLoss, compiled
from worldline.training.config import TrainingConfig, learning_rate_at
from worldline.training.distributed import ALONE, Ranks
from worldline.training.micro import micro_batches
from worldline.training.optim import GradNorms, Optimizer, build_optimizer
from worldline.training.parallel import Parallel, parallelise
from worldline.training.recovery import RollBack, Skip
from worldline.training.scaling import LossScaler
from worldline.training.source import warn_of_range

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_PARTS = ("average", "scaler", "anomalies")  # of the state, besides the optimiser's


class Updater:
    """Computes the losses of a model that is on its device, and updates its parameters.

    Args:
        model: The model.
        config: The settings.
        device: Where the model is.
        record: Called with every anomaly that is found; saves its batch and returns a sentence that says where.
        ranks: This process's place among those that train together.

    Raises:
        ConfigError: The model is not trainable.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        device: torch.device,
        record: Callable[[Anomaly], str],
        ranks: Ranks = ALONE,
    ) -> None:
        self._whole = _check_trainable(model)
        compute = compiled(self._whole.compute_loss) if config.compile else self._whole.compute_loss
        # Where several processes train together, what they compute together: the same thing to the step below.
        self._parallel: Parallel | None = parallelise(model, compute, config, ranks, device)
        self._trainable: Trainable = self._whole if self._parallel is None else self._parallel
        self._training_loss: ComputeLoss = compute if self._parallel is None else self._parallel.compute_loss
        self._model = model
        self._config = config
        self._device = device
        self._is_main = ranks.is_main
        self._watch = AnomalyWatch(config, device, record)
        self._scaler = LossScaler(device) if config.precision == "fp16" else None
        # Built with the optimiser
        self._optimizer: Optimizer | None = None
        self._average: WeightAverage | None = None
        self._skip: Skip | None = None
        self._roll_back: RollBack | None = None
        if config.precision == "fp16" and device.type == "cpu":
            warnings.warn(
                "On a CPU, matrix products in float16 take several times as long as in float32. Use precision='bf16'.",
                stacklevel=3,
            )

    @property
    def optimizer(self) -> Optimizer:
        """The optimiser, built when it is first needed."""
        if self._optimizer is None:
            self._optimizer = self._build()
        return self._optimizer

    def attach(self) -> None:
        """Move the parameters into flat buffers, if they are not there."""
        self.scatter()
        self.optimizer.attach()
        if self._average is not None:
            self._average.attach()

    def step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """Do the optimiser step `step`, counted from 1.

        Returns:
            The batch's detached losses, "grad_norm", with float16 "loss_scale", and with an `on_anomaly` other than
            "stop" the number of "anomalies" found so far.

        Raises:
            NonFiniteError: A loss or gradient of this or an earlier step was NaN or infinite (see `AnomalyWatch`).
            AnomalyError: A loss was far above those before it.
        """
        if step == 1 and self._is_main:
            warn_of_range(self._model, batch)
        rng = seeding.rng_state()
        optimizer = self.optimizer
        if self._roll_back is not None:
            self._roll_back.begin(rng)
        if self._skip is not None:
            self._skip.begin()
        optimizer.zero_grad()
        metrics = self._accumulate_gradients(batch)
        # The gradients of the whole batch are complete here: from now on all processes must see the same numbers.
        norms = optimizer.measure(None if self._scaler is None else self._scaler.scale)
        metrics["grad_norm"] = norms.total
        skip = self._watch.add(step, rng, metrics["loss"], self._judged_norm(norms.total))
        is_undone = self._watch.is_due(step) and self.check()
        if not is_undone:
            self._update(learning_rate_at(self._config, step), norms, skip)
        if self._config.on_anomaly != "stop":
            metrics["anomalies"] = torch.full((), float(self._watch.num_anomalies), device=self._device)
        return metrics

    def compute_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of `batch` at the configured precision, not compiled, and of this process alone."""
        return self._at_precision(self._whole.compute_loss, batch)

    def check(self) -> bool:
        """Look at the losses of all steps so far, and return whether training went back to before them.

        Raises:
            NonFiniteError: One of them was NaN or infinite (see `AnomalyWatch`).
            AnomalyError: One of them was far above those before it.
        """
        has_found = self._watch.check()
        if self._roll_back is None:
            return False
        if has_found:
            self._roll_back.undo()
        else:
            self._roll_back.accept()
        return has_found

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
    def averaged_weights(self) -> Iterator[None]:
        """Run the body with the averaged weights in the model, if there are any."""
        with contextlib.nullcontext() if self._average is None else self._average.applied():
            yield

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Run the body with the present weights in the model, and the model on the device."""
        with contextlib.nullcontext() if self._parallel is None else self._parallel.whole():
            yield

    @property
    def home(self) -> torch.device:
        """Where the model is while it is trained."""
        return self._device if self._parallel is None else self._parallel.home

    def parts(self) -> Mapping[str, Tensor]:
        """Return what this process has of the weights and buffers in use, by name."""
        return self._model.state_dict() if self._parallel is None else self._parallel.parts()

    def scatter(self) -> None:
        """Take over weights that were just written into the model."""
        if self._parallel is not None:
            self._parallel.scatter()

    def gather(self) -> None:
        """Bring the present weights into the model, where they are not used from there."""
        if self._parallel is not None:
            self._parallel.gather()

    def release(self) -> None:
        """Give the parameters memory of their own, if the optimiser has it; they may change before the next step."""
        if self._optimizer is not None:
            self._optimizer.release()
        if self._roll_back is not None:
            self._roll_back.accept()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the optimiser's state, and that of every part in use as "PART/NAME"."""
        tensors = self.optimizer.state_dict()
        for part, stateful in self._parts().items():
            tensors |= {f"{part}/{name}": tensor for name, tensor in stateful.state_dict().items()}
        return tensors

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` returned, with the weights of that moment; parts that it lacks begin anew.

        Raises:
            DataError: A tensor is missing, unknown or of another shape.
        """
        states: dict[str, dict[str, Tensor]] = {part: {} for part in (*_PARTS, "")}
        for key, tensor in tensors.items():
            part, _, name = key.partition("/")
            is_part = part in _PARTS
            states[part if is_part else ""][name if is_part else key] = tensor
        self.optimizer.load_state_dict(states[""])
        for part, stateful in self._parts().items():
            stateful.load_state_dict(states[part])

    def _build(self) -> Optimizer:
        config = self._config
        rules = {"weight_decay": config.weight_decay, "grad_clip": config.grad_clip}
        if self._parallel is None:
            optimizer = build_optimizer(self._model, self._trainable.param_groups(), **rules)
        else:
            optimizer = self._parallel.build_optimizer(**rules)
        if config.ema_decay is not None:
            self._average = WeightAverage(optimizer, config.ema_decay)
        if config.on_anomaly == "skip":
            self._skip = Skip(self._model, optimizer)
        if config.on_anomaly == "rollback":
            self._roll_back = RollBack(self._model, optimizer, self._average, self._scaler)
        return optimizer

    def _parts(self) -> dict[str, WeightAverage | LossScaler | AnomalyWatch]:
        parts = zip(_PARTS, (self._average, self._scaler, self._watch), strict=True)
        return {name: part for name, part in parts if part is not None}

    def _accumulate_gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Add up the gradients of the batch, in micro-batches if so configured, and return its detached losses."""
        scale = None if self._scaler is None else self._scaler.scale
        num_parts = self._config.num_micro_batches
        if num_parts == 1:
            metrics = self._backward(batch, scale)
        else:
            metrics = {}
            cut = micro_batches if self._parallel is None else self._parallel.micro_batches
            for part, weight in cut(batch, num_parts):
                losses = self._backward(part, weight if scale is None else weight * scale)
                for name, value in losses.items():
                    metrics[name] = metrics.get(name, 0.0) + weight * value
        if scale is not None:
            metrics["loss_scale"] = scale
        return metrics

    def _backward(self, batch: Batch, factor: Tensor | None) -> dict[str, Tensor]:
        """Add the gradients of the loss of `batch`, times `factor []`, to those there are."""
        losses = self._at_precision(self._training_loss, batch)
        loss = losses["loss"]
        torch.autograd.backward(loss if factor is None else loss * factor)
        return {name: value.detach() for name, value in losses.items()}

    def _at_precision(self, compute_loss: ComputeLoss, batch: Batch) -> dict[str, Tensor]:
        dtype = _AUTOCAST.get(self._config.precision)
        if dtype is None:
            return compute_loss(batch)
        with torch.autocast(self._device.type, dtype=dtype):
            return compute_loss(batch)

    def _judged_norm(self, grad_norm: Tensor) -> Tensor:
        """Return the norm that must be finite; one that a loss scale has made overflow is no anomaly."""
        if self._scaler is None:
            return grad_norm
        return torch.where(self._scaler.scale > 1, 0.0, grad_norm)

    def _update(self, learning_rate: float, norms: GradNorms, is_bad: Tensor | None) -> None:
        """Change the weights and what follows them, unless `is_bad []` is 1 or a float16 gradient has overflowed."""
        skip = is_bad
        if self._scaler is not None:
            has_overflowed = self._scaler.update(norms.total)
            skip = has_overflowed if is_bad is None else torch.maximum(is_bad, has_overflowed)
        self.optimizer.step(learning_rate, norms, skip)
        self._trainable.after_update()
        if self._average is not None:
            self._average.update(skip)
        if self._skip is not None and is_bad is not None:
            self._skip.finish(is_bad)


def _check_trainable(model: nn.Module) -> Trainable:
    if isinstance(model, nn.Module) and isinstance(model, Trainable):
        return model
    needed = ("compute_loss", "param_groups", "after_update")
    missing = [name for name in needed if name not in dir(model)]
    raise ConfigError(
        f"A trainable model is a torch.nn.Module with {', '.join(needed)}; {type(model).__name__} "
        f"{'lacks ' + ', '.join(missing) if missing else 'is none'}. Subclass worldline.models.base.Model."
    )
