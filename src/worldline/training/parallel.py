"""Data parallelism: each process computes the loss of its share of a batch, and all make the same update.

What they compute together is the loss of the whole batch. Losses are means over real steps, so a process's loss counts
in proportion to the real steps of its share, whatever its number of windows and however much of them is padding:

    loss = sum_r n_r * loss_r / N        n_r real steps of share r, N of the whole batch

Gradients are averaged by torch's DistributedDataParallel while the backward pass still runs, before they are clipped:
the norm is that of the whole batch's gradient. One more message per step, before the backward pass, carries the counts,
the loss and all metrics, and those buffers of the model that its loss has changed (running statistics), which become
the same in all processes. So every callback sees the numbers of the whole batch, and no process decides alone.
"""

from __future__ import annotations

import abc
import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from worldline.batch import Batch
from worldline.protocols import ParamGroup, Trainable
from worldline.training.compiling import ComputeLoss
from worldline.training.config import TrainingConfig
from worldline.training.distributed import Ranks, send_from_first
from worldline.training.micro import micro_batches
from worldline.training.optim import Optimizer, build_optimizer

_SMALLEST_COUNT = 2.0**-20  # of a share without a real step, so that no process and no batch divides by zero


class Parallel(abc.ABC):
    """A `Trainable` whose loss is that of all processes together.

    Attributes:
        home: Where the model that the user gave is while it is trained.
    """

    home: torch.device

    @abc.abstractmethod
    def compute_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss and metrics of the whole batch, of which `batch` is this process's share."""

    def micro_batches(self, batch: Batch, num_parts: int) -> Iterator[tuple[Batch, Tensor]]:
        """Yield parts of `batch`, as many in every process, and their weights `[]` within the batches of all."""
        num_parts_here = torch.tensor(min(num_parts, batch.batch_size))
        dist.all_reduce(num_parts_here, dist.ReduceOp.MIN)
        pieces = [piece for piece, _ in micro_batches(batch, int(num_parts_here))]
        counts = torch.stack([_count(piece) for piece in pieces])
        dist.all_reduce(counts)
        yield from zip(pieces, (counts / counts.sum()).unbind(), strict=True)

    @abc.abstractmethod
    def param_groups(self) -> Sequence[ParamGroup]:
        """Return the parameter groups of what is trained."""

    @abc.abstractmethod
    def after_update(self) -> None:
        """Do what follows each optimiser step."""

    @abc.abstractmethod
    def build_optimizer(self, *, weight_decay: float, grad_clip: float) -> Optimizer:
        """Return the optimiser, attached."""

    @abc.abstractmethod
    def scatter(self) -> None:
        """Take over weights that were just written into the user's model."""

    @abc.abstractmethod
    def gather(self) -> None:
        """Bring the present weights into the user's model."""

    @abc.abstractmethod
    def parts(self) -> Mapping[str, Tensor]:
        """Return what this process has of the weights and buffers in use, by name."""

    @abc.abstractmethod
    def whole(self) -> contextlib.AbstractContextManager[None]:
        """Run the body with the present weights in the user's model, and that on the device."""


def parallelise(
    model: nn.Module, compute: ComputeLoss, config: TrainingConfig, ranks: Ranks, device: torch.device
) -> Parallel | None:
    """Return what trains `model` in several processes, or None for a process that is alone.

    `compute` is the loss of the whole model, perhaps compiled.

    Raises:
        ConfigError: The model, or a setting, does not go with this strategy.
    """
    if ranks.is_alone:
        return None
    if config.strategy == "ddp":
        return DataParallel(model, compute, device)
    from worldline.training.sharded import ShardedParallel, check

    check(model, config)
    return ShardedParallel(model, device)


class DataParallel(Parallel):
    """The model is whole in every process (torch's DistributedDataParallel)."""

    def __init__(self, model: nn.Module, compute: ComputeLoss, device: torch.device) -> None:
        assert isinstance(model, Trainable)
        self.home = device
        self._model: nn.Module = model
        self._trainable: Trainable = model
        self._compute = compute
        self._parallel: DistributedDataParallel | None = None

    def compute_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss and metrics of the whole batch, of which `batch` is this process's share."""
        if self._parallel is not None:
            return loss_of_all(self._parallel, self._model, batch)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")  # its successor is too new
            self._parallel = self._wrapped()
            return loss_of_all(self._parallel, self._model, batch)

    def param_groups(self) -> Sequence[ParamGroup]:
        """Return the parameter groups of the model."""
        return self._trainable.param_groups()

    def after_update(self) -> None:
        """Do what follows each optimiser step."""
        self._trainable.after_update()

    def build_optimizer(self, *, weight_decay: float, grad_clip: float) -> Optimizer:
        """Return the optimiser, attached."""
        return build_optimizer(self._model, self.param_groups(), weight_decay=weight_decay, grad_clip=grad_clip)

    def scatter(self) -> None:
        """Give all processes the weights of the first."""
        for tensor in tensors_of(self._model).values():
            send_from_first(tensor)

    def gather(self) -> None:
        """Do nothing: the model's weights are the ones in use."""

    def parts(self) -> Mapping[str, Tensor]:
        """Return the model's weights and buffers: every process has all of them."""
        return self._model.state_dict()

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Run the body: the model is whole, and on the device."""
        yield

    def _wrapped(self) -> DistributedDataParallel:
        """Return the model in its wrapper.

        Parameters that no process's loss reaches keep the gradient zero. They are looked for at every step also because
        torch otherwise arranges its buckets anew after the first one, and then a resumed run would round differently.
        """
        return DistributedDataParallel(
            _Loss(self._model, self._compute, self.home), broadcast_buffers=False, find_unused_parameters=True
        )


class _Loss(nn.Module):
    """A model whose `forward` is its loss: what DistributedDataParallel calls.

    Its one parameter is for those models whose loss reaches all of theirs: torch would tell their users, in a warning
    that cannot be filtered, that nobody need look for others.
    """

    def __init__(self, model: nn.Module, compute: ComputeLoss, device: torch.device) -> None:
        super().__init__()
        self.model = model
        self.compute = compute
        self.unreached = nn.Parameter(torch.zeros(1, device=device))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.compute(batch)


def loss_of_all(compute: Any, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Return what `compute(batch)` gives for the whole batch, of which every process passes its share.

    "loss" has the value of the whole batch, and its gradient, averaged over processes, is that of the whole batch.
    Floating-point buffers of `model` that `compute` changes become the weighted mean over all processes, when the
    backward pass, which may need them as they are, has ended.
    """
    before = {name: (buffer, buffer._version) for name, buffer in model.named_buffers()}
    losses: Mapping[str, Tensor] = compute(batch)
    changed = [buffer for name, buffer in model.named_buffers() if _is_changed(buffer, before.get(name))]
    count = _count(batch)
    numbers = [value.detach().to(count).reshape(1) for value in losses.values()]
    packed = torch.cat([*numbers, *(buffer.reshape(-1).to(count) for buffer in changed), count.new_ones(1)]) * count
    dist.all_reduce(packed)
    total = packed[-1]
    means = packed[:-1] / total
    reduced = dict(zip(losses, means[: len(numbers)].unbind(), strict=True))
    parts = means[len(numbers) :].split([buffer.numel() for buffer in changed])

    def settle() -> None:
        for buffer, part in zip(changed, parts, strict=True):
            buffer.copy_(part.view_as(buffer))

    weight = count * dist.get_world_size() / total
    whole: Tensor = _WholeLoss.apply(losses["loss"], reduced["loss"], weight, settle)  # type: ignore[no-untyped-call]
    return {**reduced, "loss": whole}


def _count(batch: Batch) -> Tensor:
    return batch.step_mask.sum(dtype=torch.float32).clamp_min(_SMALLEST_COUNT)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers of a model by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _is_changed(buffer: Tensor, before: tuple[Tensor, int] | None) -> bool:
    is_same = before is not None and before[0] is buffer and before[1] == buffer._version
    return buffer.is_floating_point() and not is_same


class _WholeLoss(torch.autograd.Function):
    """The value of the whole batch's loss, with the gradient of `weight` times this process's loss.

    `settle` is called at the end of the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, whole: Tensor, weight: Tensor, settle: Callable[[], None]) -> Tensor:
        ctx.save_for_backward(weight.to(own.dtype))
        ctx.settle = settle
        return whole.to(own.dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        torch.autograd.Variable._execution_engine.queue_callback(ctx.settle)
        return grad * weight, None, None, None
