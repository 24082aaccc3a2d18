"""AdamW and LaProp over flat parameters: one optimiser call, one gradient norm, no per-parameter Python.

While an `Optimizer` is attached, the parameters of a group are views of one contiguous buffer and their gradients
views of a second one. The `nn.Parameter` objects stay the same objects, so the model neither knows nor cares;
`release` gives every parameter its own memory back. For a small network the time of a step is the number of calls,
and for a large one memory traffic: both are as low as they get when a group is a single tensor.

A parameter that the loss does not reach has the gradient zero here (torch.optim skips it): with weight decay it
decays. Parameters that are not to be trained belong in no group.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from worldline.errors import ConfigError, DataError
from worldline.protocols import ParamGroup
from worldline.training.flat import FlatParameters

_CPU_CHUNK = 1 << 17  # elements per pass of LaProp: values, gradients and moments of a chunk stay in the cache
_AGC_MIN_NORM = 1e-3  # parameters below this norm are clipped as if they had it, so that zeros can grow


# From the norms of what this process has of some tensors to those of the whole tensors.
WholeNorms: TypeAlias = Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradNorms:
    """Gradient norms before clipping, 0-d tensors on the parameters' device."""

    total: Tensor  # [] over all groups
    groups: tuple[Tensor, ...]  # [] each
    tensors: tuple[Tensor | None, ...]  # [number of parameters] each, for groups with adaptive clipping


class FlatGroup(abc.ABC):
    """One parameter group: its flat parameters, the state of its update rule, and its clipping."""

    state_names: ClassVar[tuple[str, ...]]

    def __init__(
        self, settings: ParamGroup, names: Sequence[str], *, weight_decay: float, whole_norms: WholeNorms | None = None
    ) -> None:
        self.settings = settings
        self.whole_norms = whole_norms
        self.names = tuple(names)
        self.weight_decay = weight_decay if settings.weight_decay is None else settings.weight_decay
        self.num_updates = 0
        self.flat = FlatParameters(settings.params)
        self.state = {name: torch.zeros_like(self.flat.values) for name in self.state_names}
        self.bind()

    @abc.abstractmethod
    def bind(self) -> None:
        """Prepare what refers to `self.flat` and `self.state`; called whenever `self.flat` is a new one."""

    @abc.abstractmethod
    def update(self, learning_rate: float, divisor: Tensor | None) -> None:
        """Change the values by one step along the gradients divided by `divisor []` (None: as they are)."""

    def attach(self) -> None:
        """Move the parameters into a new buffer."""
        self.flat = FlatParameters(self.settings.params)
        self.state = {name: tensor.to(self.flat.values.device) for name, tensor in self.state.items()}
        self.bind()

    @property
    def has_own_clipping(self) -> bool:
        """Whether this group's gradients are left out of the configured joint clipping."""
        return self.settings.agc > 0 or self.settings.max_grad_norm is not None

    def measure(self) -> tuple[Tensor, Tensor | None]:
        """Return the norm of the group's gradients `[]`, and with adaptive clipping also each tensor's `[K]`."""
        self.flat.collect()
        if self.settings.agc == 0:
            return self._whole(torch.linalg.vector_norm(self.flat.grads)), None
        norms = self._whole(torch.stack(torch._foreach_norm(self.flat.grad_views)))
        return torch.linalg.vector_norm(norms), norms

    def step(self, learning_rate: float, divisor: Tensor | None, tensor_norms: Tensor | None) -> None:
        """Clip and update; `divisor []` is what joint clipping asks for, `tensor_norms [K]` come from `measure`."""
        self.num_updates += 1
        if tensor_norms is not None:
            self._clip_adaptively(tensor_norms, divisor)
            divisor = None
        self.update(learning_rate * self.settings.lr_scale, divisor)

    def _clip_adaptively(self, grad_norms: Tensor, divisor: Tensor | None) -> None:
        """Scale each gradient to at most agc * max(1e-3, |parameter|), after the group's own norm clipping."""
        scale = None if divisor is None else 1 / divisor
        if scale is not None:
            grad_norms = grad_norms * scale
        value_norms = self._whole(torch.stack(torch._foreach_norm(self.flat.value_views)))
        largest = self.settings.agc * value_norms.clamp_min(_AGC_MIN_NORM)
        factors = 1 / (grad_norms / largest).clamp_min(1.0)  # [K]
        if scale is not None:
            factors = factors * scale
        torch._foreach_mul_(self.flat.grad_views, list(factors.unbind()))

    def is_finite(self) -> bool:
        """Return whether all values are finite. Waits for the device."""
        return bool(self._whole(torch.linalg.vector_norm(self.flat.values)).isfinite())

    def _whole(self, norms: Tensor) -> Tensor:
        return norms if self.whole_norms is None else self.whole_norms(norms)

    def named_state(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, view) of the state of every parameter, shaped as the parameter is."""
        for kind, flat in self.state.items():
            for name, view in zip(self.names, self.flat.views(flat), strict=True):
                yield f"{kind}/{name}", view


class AdamWGroup(FlatGroup):
    """AdamW (Loshchilov & Hutter 2019) by torch's fused kernel, which also divides by the clipping factor."""

    state_names = ("exp_avg", "exp_avg_sq")

    def bind(self) -> None:
        """Make the counter that the kernel reads on the device."""
        self._count = torch.zeros((), dtype=torch.float32, device=self.flat.values.device)

    def update(self, learning_rate: float, divisor: Tensor | None) -> None:
        """Apply the kernel to the whole group."""
        self._count.fill_(self.num_updates)
        beta1, beta2 = self.settings.betas
        torch._fused_adamw_(
            [self.flat.values],
            [self.flat.grads],
            [self.state["exp_avg"]],
            [self.state["exp_avg_sq"]],
            [],
            [self._count],
            lr=learning_rate,
            beta1=beta1,
            beta2=beta2,
            weight_decay=self.weight_decay,
            eps=self.settings.eps,
            amsgrad=False,
            maximize=False,
            grad_scale=None if divisor is None else divisor.float(),  # the kernel reads float32, whatever it updates
        )


class LaPropGroup(FlatGroup):
    """LaProp (Ziyin et al. 2020) as DreamerV3 uses it: scale by the RMS first, then average with momentum.

    With bias-corrected moments, in the order of the reference:
        v = beta2 * v + (1 - beta2) * g^2
        m = beta1 * m + (1 - beta1) * g / (sqrt(v / (1 - beta2^t)) + eps)
        p = p - lr * (m / (1 - beta1^t) + weight_decay * p)        the decay on matrices and kernels only
    """

    state_names = ("momentum", "second_moment")

    def bind(self) -> None:
        """Cut the buffers into chunks that fit the cache (CPU), or leave them whole (accelerators)."""
        flat = self.flat
        length = min(_CPU_CHUNK, flat.size) if flat.values.device.type == "cpu" else flat.size
        buffers = (flat.values, flat.grads, self.state["momentum"], self.state["second_moment"])
        self._chunks = list(zip(*(torch.split(buffer, length) for buffer in buffers), strict=True))
        self._scratch = torch.empty_like(flat.values[:length])
        self._kernels = [view for view in flat.value_views if view.ndim >= 2]

    def update(self, learning_rate: float, divisor: Tensor | None) -> None:
        """Update chunk by chunk; each makes seven passes over data that is in the cache after the first."""
        beta1, beta2 = self.settings.betas
        # g / (sqrt(v / c) + eps) = sqrt(c) * g / (sqrt(v) + eps * sqrt(c)) saves a pass
        root = math.sqrt(1 - beta2**self.num_updates)
        step_size = learning_rate / (1 - beta1**self.num_updates)
        if divisor is not None:
            self.flat.grads.div_(divisor)
        if self.weight_decay > 0 and self._kernels:
            torch._foreach_mul_(self._kernels, 1 - learning_rate * self.weight_decay)
        for value, grad, momentum, second_moment in self._chunks:
            scratch = self._scratch[: value.numel()]
            second_moment.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
            torch.sqrt(second_moment, out=scratch).add_(self.settings.eps * root)
            momentum.mul_(beta1).addcdiv_(grad, scratch, value=(1 - beta1) * root)
            value.add_(momentum, alpha=-step_size)


_ALGORITHMS: dict[str, type[FlatGroup]] = {"adamw": AdamWGroup, "laprop": LaPropGroup}


class Optimizer:
    """All parameter groups of a model.

    Gradients are clipped by one rule per group: the group's `agc` and `max_grad_norm` if it has any of the two (the
    norm first, then each tensor), otherwise jointly with all such groups to `grad_clip`. The norm is that of the group,
    or of all groups whose `clipped_with` is the same.
    """

    def __init__(self, groups: Sequence[FlatGroup], *, grad_clip: float) -> None:
        self.groups = tuple(groups)
        self.grad_clip = grad_clip
        self._is_attached = True

    def attach(self) -> None:
        """Move the parameters (back) into flat buffers; does nothing where they are there already."""
        if not self._is_attached:
            for group in self.groups:
                group.attach()
        self._is_attached = True

    def release(self) -> None:
        """Give the parameters their own memory back; the optimiser's state is kept."""
        for group in self.groups:
            group.flat.release()
        self._is_attached = False

    def zero_grad(self) -> None:
        """Set all gradients to zero, in place."""
        for group in self.groups:
            group.flat.grads.zero_()

    def measure(self) -> GradNorms:
        """Return the norms of the gradients, without waiting for the device."""
        measured = [group.measure() for group in self.groups]
        norms = tuple(norm for norm, _ in measured)
        total = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
        return GradNorms(total=total, groups=norms, tensors=tuple(tensors for _, tensors in measured))

    def step(self, learning_rate: float, norms: GradNorms) -> None:
        """Clip and update every group; `norms` are those of the present gradients, from `measure`."""
        joint = self._joint_divisor(norms)
        for group, norm, tensors in zip(self.groups, norms.groups, norms.tensors, strict=True):
            divisor = joint
            if group.has_own_clipping:
                largest = group.settings.max_grad_norm
                divisor = _divisor(self._shared_norm(group, norm, norms), largest) if largest else None
            group.step(learning_rate, divisor, tensors)

    def _shared_norm(self, group: FlatGroup, norm: Tensor, norms: GradNorms) -> Tensor:
        """Return the norm `[]` of all groups that are clipped with this one."""
        name = group.settings.clipped_with
        if not name:
            return norm
        together = [
            other_norm
            for other, other_norm in zip(self.groups, norms.groups, strict=True)
            if other.settings.clipped_with == name
        ]
        shared: Tensor = torch.linalg.vector_norm(torch.stack(together))
        return shared

    def _joint_divisor(self, norms: GradNorms) -> Tensor | None:
        shared = [norm for group, norm in zip(self.groups, norms.groups, strict=True) if not group.has_own_clipping]
        if self.grad_clip == 0 or not shared:
            return None
        return _divisor(
            shared[0] if len(shared) == 1 else torch.linalg.vector_norm(torch.stack(shared)), self.grad_clip
        )

    def is_finite(self) -> bool:
        """Return whether all values are finite. Waits for the device."""
        return all(group.is_finite() for group in self.groups)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the moments of every parameter by name, and the update count of every group."""
        tensors = {name: view.contiguous() for group in self.groups for name, view in group.named_state()}
        counts = {f"num_updates/{group.settings.name}": torch.tensor(group.num_updates) for group in self.groups}
        return tensors | counts

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy `tensors`, which `state_dict` returned, into place.

        Raises:
            DataError: A tensor is missing, unknown or of another shape: the model or its groups have changed.
        """
        own = dict(item for group in self.groups for item in group.named_state())
        counts = {f"num_updates/{group.settings.name}": group for group in self.groups}
        if differing := sorted((own.keys() | counts.keys()) ^ tensors.keys()):
            raise DataError(
                f"The optimiser state does not fit this model: {', '.join(differing[:5])} exist only on one side. "
                "Resume with the model and parameter groups that the checkpoint was made with."
            )
        for name, view in own.items():
            if tensors[name].shape != view.shape:
                raise DataError(
                    f"The optimiser state {name!r} has shape {tuple(tensors[name].shape)}, expected "
                    f"{tuple(view.shape)}. Resume with the model that the checkpoint was made with."
                )
        for name, view in own.items():
            view.copy_(tensors[name])
        for name, group in counts.items():
            group.num_updates = int(tensors[name])


def build_optimizer(
    model: nn.Module, groups: Sequence[ParamGroup], *, weight_decay: float, grad_clip: float
) -> Optimizer:
    """Build the optimiser for `groups` of the parameters of `model`, and attach it.

    Raises:
        ConfigError: The groups are empty, overlap, mix devices or dtypes, or have settings that cannot be.
    """
    names = {id(param): name for name, param in model.named_parameters()}
    return Optimizer(build_groups(names, groups, weight_decay=weight_decay), grad_clip=grad_clip)


def build_groups(
    names: Mapping[int, str],
    groups: Sequence[ParamGroup],
    *,
    weight_decay: float,
    whole_norms: WholeNorms | None = None,
) -> list[FlatGroup]:
    """Build the groups of an optimiser; `names` are those of the model's parameters by `id`.

    Raises:
        ConfigError: See `build_optimizer`.
    """
    seen: dict[int, str] = {}
    built: list[FlatGroup] = []
    for group in groups:
        trained = [param for param in group.params if param.requires_grad]
        _check_group(group, trained, names, seen)
        if not trained:
            continue
        settings = dataclasses.replace(group, params=trained)
        algorithm = _ALGORITHMS[group.algorithm]
        built.append(
            algorithm(
                settings,
                [names[id(param)] for param in trained],
                weight_decay=weight_decay,
                whole_norms=whole_norms,
            )
        )
    if not built:
        raise ConfigError("The model has no parameter to train: param_groups() is empty or all of it is frozen.")
    if len({group.settings.name for group in built}) < len(built):
        raise ConfigError("Two parameter groups have the same name. Give each group of param_groups() its own.")
    return built


def _check_group(
    group: ParamGroup, params: Sequence[nn.Parameter], names: Mapping[int, str], seen: dict[int, str]
) -> None:
    where = f"Parameter group {group.name!r}"
    if group.algorithm not in _ALGORITHMS:
        raise ConfigError(f"{where} asks for {group.algorithm!r}. Known: {', '.join(sorted(_ALGORITHMS))}.")
    if not (group.eps > 0 and all(0 <= beta < 1 for beta in group.betas) and group.agc >= 0):
        raise ConfigError(
            f"{where} needs eps > 0, betas in [0, 1) and agc >= 0; got {group.eps}, {group.betas}, {group.agc}."
        )
    for param in params:
        if id(param) not in names:
            raise ConfigError(f"{where} has a parameter of shape {tuple(param.shape)} that is not one of the model's.")
        if id(param) in seen:
            raise ConfigError(
                f"{names[id(param)]!r} is in {seen[id(param)]!r} and in {group.name!r}; one group is enough."
            )
        seen[id(param)] = group.name
    kinds = {(str(param.device), str(param.dtype)) for param in params}
    if len(kinds) > 1 or any(not param.is_floating_point() for param in params):
        raise ConfigError(
            f"{where} mixes {sorted(kinds)}. Give each device and floating-point type a group of its own."
        )


def _divisor(norm: Tensor, largest: float) -> Tensor:
    """Return what gradients of norm `norm []` are divided by so that their norm is at most `largest`; at least 1."""
    return (norm / largest).clamp_min(1.0)
