"""AdamW and LaProp over flat parameters: one optimiser call, one gradient norm, no per-parameter Python.

While an `Optimizer` is attached, the parameters of a group are views of one contiguous buffer and their gradients
views of a second one. The `nn.Parameter` objects stay the same objects, so the model neither knows nor cares;
`release` gives every parameter its own memory back. For a small network the time of a step is the number of calls,
and for a large one memory traffic: both are as low as they get when a group is a single tensor.

A parameter that the loss does not reach has the gradient zero here (torch.optim skips it): with weight decay it
decays. Parameters that are not to be trained belong in no group.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from worldline.errors import ConfigError, DataError
from worldline.protocols import ParamGroup
from worldline.training.groups import AdamWGroup, FlatGroup, LaPropGroup, WholeNorms


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradNorms:
    """Gradient norms before clipping, 0-d tensors on the parameters' device.

    They are those of the loss's gradients: where the loss was multiplied by `scale`, that is divided out of them.
    """

    total: Tensor  # [] over all groups
    groups: tuple[Tensor, ...]  # [] each
    tensors: tuple[Tensor | None, ...]  # [number of parameters] each, for groups with adaptive clipping
    scale: Tensor | None = None  # [] what the gradients still have to be divided by


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

    def measure(self, scale: Tensor | None = None) -> GradNorms:
        """Return the norms of the gradients of a loss that was multiplied by `scale []`; never waits for the device."""
        measured = [group.measure() for group in self.groups]
        norms = tuple(norm for norm, _ in measured)
        tensors = tuple(norm for _, norm in measured)
        if scale is not None:
            norms = tuple(norm / scale for norm in norms)
            tensors = tuple(None if norm is None else norm / scale for norm in tensors)
        total = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
        return GradNorms(total=total, groups=norms, tensors=tensors, scale=scale)

    def step(self, learning_rate: float, norms: GradNorms, skip: Tensor | None = None) -> None:
        """Clip and update every group, unless `skip []` is 1; `norms` are those of the present gradients."""
        joint = self._joint_divisor(norms)
        for group, norm, tensors in zip(self.groups, norms.groups, norms.tensors, strict=True):
            divisor = joint
            if group.has_own_clipping:
                largest = group.settings.max_grad_norm
                divisor = _divisor(self._shared_norm(group, norm, norms), largest) if largest else None
            group.step(learning_rate, divisor, tensors, scale=norms.scale, skip=skip)

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

    def buffers(self) -> list[Tensor]:
        """Return the flat buffers of all weights and moments, those in use."""
        return [buffer for group in self.groups for buffer in (group.flat.values, *group.state.values())]

    def counts(self) -> list[tuple[int, Tensor | None]]:
        """Return the groups' counts of updates, for `set_counts`."""
        return [(group.num_updates, group.num_skipped) for group in self.groups]

    def set_counts(self, counts: Sequence[tuple[int, Tensor | None]]) -> None:
        """Go back to what `counts` returned."""
        for group, (num_updates, num_skipped) in zip(self.groups, counts, strict=True):
            group.num_updates, group.num_skipped = num_updates, num_skipped

    def state_dict(self) -> dict[str, Tensor]:
        """Return the moments of every parameter by name, and the update count of every group."""
        for group in self.groups:
            group.settle()
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
            group.num_updates, group.num_skipped = int(tensors[name]), None


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
        trained_names = [names[id(param)] for param in trained]
        built.append(algorithm(settings, trained_names, weight_decay=weight_decay, whole_norms=whole_norms))
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
