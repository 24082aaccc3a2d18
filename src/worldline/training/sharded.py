"""Training with the model's weights, gradients and moments divided among processes (torch's FSDP2).

The user's model stays a plain, whole module on the CPU. What is trained is a copy of it on the device, each of whose
parameters is divided along its first dimension; they are whole there only while the loss is computed. The optimiser is
the usual one, on flat buffers of what this process has; only norms are summed over processes, so that every clipping
rule means what it means without sharding. Weights and moments are gathered under their usual names for checkpoints: one
that was written by any number of processes, sharded or not, is read by any other.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from worldline.batch import Batch
from worldline.errors import ConfigError
from worldline.protocols import ParamGroup, Trainable
from worldline.training.config import TrainingConfig
from worldline.training.distributed import send_from_first
from worldline.training.groups import FlatGroup
from worldline.training.optim import GradNorms, Optimizer, build_groups
from worldline.training.parallel import Parallel, loss_of_all, tensors_of


class ShardedParallel(Parallel):
    """Every process has a part of each parameter."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.home = torch.device("cpu")
        self._model = model.to(self.home)
        self._device = device
        self._sharded = copy.deepcopy(model).to(device).train()
        fully_shard(self._sharded, mesh=init_device_mesh(device.type, (dist.get_world_size(),)))
        register_fsdp_forward_method(self._sharded, "compute_loss")
        assert isinstance(self._sharded, Trainable)
        self._trainable: Trainable = self._sharded
        self._optimizer: _ShardedOptimizer | None = None

    def compute_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss and metrics of the whole batch, of which `batch` is this process's share."""
        return loss_of_all(self._trainable.compute_loss, self._sharded, batch)

    def param_groups(self) -> Sequence[ParamGroup]:
        """Return the parameter groups of the sharded copy."""
        return self._trainable.param_groups()

    def after_update(self) -> None:
        """Do what follows each optimiser step, on the parts of the parameters.

        Raises:
            ConfigError: It takes an operator that torch knows for whole tensors only.
        """
        try:
            self._trainable.after_update()
        except NotImplementedError as error:
            raise ConfigError(
                f"{type(self._model).__name__}.after_update cannot be done with divided parameters: "
                f"{str(error).rstrip('.')}. Use strategy 'ddp'."
            ) from error

    def build_optimizer(self, *, weight_decay: float, grad_clip: float) -> Optimizer:
        """Return the optimiser of this process's parts, attached."""
        sharded = dict(self._sharded.named_parameters())
        names = {id(param): name for name, param in sharded.items()}
        parts = {name: nn.Parameter(_part(param).clone(), param.requires_grad) for name, param in sharded.items()}
        groups = [
            dataclasses.replace(group, params=[parts[names[id(param)]] for param in group.params])
            for group in self.param_groups()
        ]
        built = build_groups(
            {id(part): name for name, part in parts.items()},
            groups,
            weight_decay=weight_decay,
            whole_norms=_whole_norms,
        )
        self._optimizer = _ShardedOptimizer(built, sharded, grad_clip=grad_clip)
        return self._optimizer

    @torch.no_grad()
    def scatter(self) -> None:
        """Give every process its part of the first process's whole model."""
        whole = tensors_of(self._model)
        for tensor in whole.values():
            send_from_first(tensor)
        for name, tensor in tensors_of(self._sharded).items():
            if isinstance(tensor, DTensor):
                _part(tensor).copy_(_part_of(whole[name], tensor))
            else:
                tensor.copy_(whole[name])
        if self._optimizer is not None:
            self._optimizer.take_values()

    @torch.no_grad()
    def gather(self) -> None:
        """Bring all parts into the whole model of every process."""
        whole = tensors_of(self._model)
        for name, tensor in tensors_of(self._sharded).items():
            whole[name].copy_(tensor.full_tensor() if isinstance(tensor, DTensor) else tensor)

    def parts(self) -> Mapping[str, Tensor]:
        """Return weights as `DTensor`s, and buffers."""
        return self._sharded.state_dict()

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Run the body with the present weights in the whole model, and that on the device."""
        self.gather()
        self._model.to(self._device)
        try:
            yield
        finally:
            self._model.to(self.home)


def check(model: nn.Module, config: TrainingConfig) -> None:
    """Check that the model can be divided, and that nothing is asked for that takes a whole one.

    Raises:
        ConfigError: It cannot, or something is.
    """
    if scalars := [name for name, param in model.named_parameters() if param.ndim == 0]:
        raise ConfigError(
            f"strategy 'fsdp' divides parameters along their first dimension, which {', '.join(scalars)} lack. "
            "Give them shape [1], or use strategy 'ddp'."
        )
    whole = {
        "compile": config.compile,
        "ema_decay": config.ema_decay is not None,
        "on_anomaly": config.on_anomaly != "stop",
    }
    if asked := [name for name, is_asked in whole.items() if is_asked]:
        raise ConfigError(f"strategy 'fsdp' does not go with {', '.join(asked)}. Use strategy 'ddp', or leave it out.")


class _ShardedOptimizer(Optimizer):
    """An optimiser of flat copies of what this process has of the sharded parameters.

    Gradients come in before they are measured, and values go out after they are updated.
    """

    def __init__(self, groups: Sequence[FlatGroup], sharded: Mapping[str, nn.Parameter], *, grad_clip: float) -> None:
        super().__init__(groups, grad_clip=grad_clip)
        self._sharded = sharded

    def attach(self) -> None:
        """Move what this process has (back) into flat buffers."""
        super().attach()
        self.take_values()

    @torch.no_grad()
    def take_values(self) -> None:
        """Take over the values of the sharded parameters."""
        for group in self.groups:
            torch._foreach_copy_(group.flat.value_views, [_part(self._sharded[name]) for name in group.names])

    def zero_grad(self) -> None:
        """Set all gradients to zero."""
        super().zero_grad()
        for param in self._sharded.values():
            param.grad = None

    @torch.no_grad()
    def measure(self, scale: Tensor | None = None) -> GradNorms:
        """Bring the gradients in, and return their norms over all processes."""
        for group in self.groups:
            for name, view in zip(group.names, group.flat.grad_views, strict=True):
                grad = self._sharded[name].grad
                if grad is not None:  # else the loss does not reach it
                    view.copy_(_part(grad))
        return super().measure(scale)

    @torch.no_grad()
    def step(self, learning_rate: float, norms: GradNorms, skip: Tensor | None = None) -> None:
        """Clip and update, and bring the new values out."""
        super().step(learning_rate, norms, skip)
        for group in self.groups:
            torch._foreach_copy_([_part(self._sharded[name]) for name in group.names], group.flat.value_views)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the whole moments of every parameter by name, and the update count of every group."""
        state = super().state_dict()
        for name, part in state.items():
            if (param := self._param_of(name)) is not None:
                whole = DTensor.from_local(
                    part, param.device_mesh, param.placements, shape=param.shape, stride=param.stride()
                )
                state[name] = whole.full_tensor().cpu()
        return state

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Take this process's part of `tensors`, which any optimiser's `state_dict` returned.

        Raises:
            DataError: They do not fit.
        """
        parts = {}
        for name, tensor in tensors.items():
            param = self._param_of(name)
            parts[name] = tensor if param is None else _part_of(tensor, param)
        super().load_state_dict(parts)

    def _param_of(self, name: str) -> DTensor | None:
        """Return the parameter that the state `name` is of, such as "exp_avg/net.weight"; None for another count."""
        param = self._sharded.get(name.partition("/")[2])
        return param if isinstance(param, DTensor) else None


def _part(tensor: Tensor) -> Tensor:
    """Return what this process has of a sharded tensor; not copied, and without gradient."""
    assert isinstance(tensor, DTensor)
    with torch.no_grad():
        return tensor.to_local()


def _part_of(whole: Tensor, like: DTensor) -> Tensor:
    """Return what this process would have of `whole` if it were divided as `like` is."""
    mesh = like.device_mesh
    return distribute_tensor(whole.to(mesh.device_type), mesh, like.placements, src_data_rank=None).to_local()


def _whole_norms(norms: Tensor) -> Tensor:
    """Return the norms of whole tensors from those of this process's parts of them."""
    squares = norms.square()
    dist.all_reduce(squares)
    return squares.sqrt()
