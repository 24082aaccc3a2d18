"""The update rules: AdamW and LaProp, each on the flat parameters of one group."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from worldline.protocols import ParamGroup
from worldline.training.flat import FlatParameters

_CPU_CHUNK = 1 << 17  # elements per pass of LaProp: values, gradients and moments of a chunk stay in the cache
_AGC_MIN_NORM = 1e-3  # parameters below this norm are clipped as if they had it, so that zeros can grow


# From the norms of what this process has of some tensors to those of the whole tensors.
WholeNorms: TypeAlias = Callable[[Tensor], Tensor]


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
        self.num_skipped: Tensor | None = None  # [] float32, of `num_updates`, where steps can be left out
        self.flat = FlatParameters(settings.params)
        self.state = {name: torch.zeros_like(self.flat.values) for name in self.state_names}
        self.bind()

    @abc.abstractmethod
    def bind(self) -> None:
        """Prepare what refers to `self.flat` and `self.state`; called whenever `self.flat` is a new one."""

    @abc.abstractmethod
    def update(self, learning_rate: float, divisor: Tensor | None, skip: Tensor | None) -> None:
        """Change the values by one step along the gradients divided by `divisor []` (None: as they are).

        Nothing changes, whatever the gradients are, where `skip []` is 1: only the device knows.
        """

    def settle(self) -> None:
        """Let `num_updates` be the number of updates that were not left out. Waits for the device."""
        if self.num_skipped is not None:
            self.num_updates -= int(self.num_skipped)
            self.num_skipped = None

    def attach(self) -> None:
        """Move the parameters into a new buffer."""
        self.settle()
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

    def step(
        self,
        learning_rate: float,
        divisor: Tensor | None,
        tensor_norms: Tensor | None,
        *,
        scale: Tensor | None,
        skip: Tensor | None,
    ) -> None:
        """Clip and update, unless `skip []` is 1.

        `divisor []` is what norm clipping asks for; `tensor_norms [K]` and `scale []` are those of `GradNorms`.
        """
        self.num_updates += 1
        if skip is not None:
            self.num_skipped = skip if self.num_skipped is None else self.num_skipped + skip
        if tensor_norms is not None:
            self._clip_adaptively(tensor_norms, divisor, scale)
            divisor = None
        elif scale is not None:
            divisor = scale if divisor is None else divisor * scale
        self.update(learning_rate * self.settings.lr_scale, divisor, skip)

    def _clip_adaptively(self, grad_norms: Tensor, divisor: Tensor | None, scale: Tensor | None) -> None:
        """Scale each gradient to at most agc * max(1e-3, |parameter|), after the group's own norm clipping."""
        factor = None if divisor is None else 1 / divisor
        if factor is not None:
            grad_norms = grad_norms * factor
        value_norms = self._whole(torch.stack(torch._foreach_norm(self.flat.value_views)))
        largest = self.settings.agc * value_norms.clamp_min(_AGC_MIN_NORM)
        factors = 1 / (grad_norms / largest).clamp_min(1.0)  # [K]
        if factor is not None:
            factors = factors * factor
        if scale is not None:
            factors = factors / scale
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
        device = self.flat.values.device
        self._count = torch.zeros((), dtype=torch.float32, device=device)
        self._buffers = (self.flat.values, self.state["exp_avg"], self.state["exp_avg_sq"])
        self._kernel_divides_and_skips = device.type in ("cpu", "cuda")  # that for MPS ignores both arguments

    def update(self, learning_rate: float, divisor: Tensor | None, skip: Tensor | None) -> None:
        """Apply the kernel to the whole group."""
        self._count.fill_(self.num_updates)
        if self.num_skipped is not None:
            self._count.sub_(self.num_skipped)
        if self._kernel_divides_and_skips:
            # It reads float32, whatever it updates.
            self._apply_kernel(learning_rate, None if divisor is None else divisor.float(), skip)
            return
        if divisor is not None:
            self.flat.grads.div_(divisor)
        if skip is None:
            self._apply_kernel(learning_rate, None, None)
            return
        before = [buffer.clone() for buffer in self._buffers]
        self._apply_kernel(learning_rate, None, None)
        for buffer, kept in zip(self._buffers, before, strict=True):
            torch.where(skip > 0, kept, buffer, out=buffer)

    def _apply_kernel(self, learning_rate: float, divisor: Tensor | None, skip: Tensor | None) -> None:
        beta1, beta2 = self.settings.betas
        values, exp_avg, exp_avg_sq = self._buffers
        torch._fused_adamw_(
            [values],
            [self.flat.grads],
            [exp_avg],
            [exp_avg_sq],
            [],
            [self._count],
            lr=learning_rate,
            beta1=beta1,
            beta2=beta2,
            weight_decay=self.weight_decay,
            eps=self.settings.eps,
            amsgrad=False,
            maximize=False,
            grad_scale=divisor,
            found_inf=skip,
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

    def update(self, learning_rate: float, divisor: Tensor | None, skip: Tensor | None) -> None:
        """Update chunk by chunk; each makes seven passes over data that is in the cache after the first."""
        if skip is not None:
            self._update_unless(skip, learning_rate, divisor)
            return
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

    def _update_unless(self, skip: Tensor, learning_rate: float, divisor: Tensor | None) -> None:
        """Do the same, in more passes, with tensors for all numbers that depend on what only the device knows.

        A step that is left out has gradients of zero and moves nothing towards them.
        """
        assert self.num_skipped is not None
        dtype = self.flat.values.dtype
        kept = (1 - skip).to(dtype)
        count = (self.num_updates - self.num_skipped).clamp_min(1.0)
        # 1 - beta^t, which for the first steps is small beside what it is the difference of
        rest1, rest2 = (-torch.expm1(count * _log(beta)).to(dtype) for beta in self.settings.betas)
        weight1, weight2 = (kept * (1 - beta) for beta in self.settings.betas)
        root, step_size = rest2.sqrt(), kept * learning_rate / rest1
        if divisor is not None:
            self.flat.grads.div_(divisor)
        self.flat.grads.masked_fill_(skip > 0, 0.0)
        if self.weight_decay > 0 and self._kernels:
            torch._foreach_mul_(self._kernels, 1 - kept * (learning_rate * self.weight_decay))
        for value, grad, momentum, second_moment in self._chunks:
            scratch = self._scratch[: value.numel()]
            second_moment.lerp_(torch.mul(grad, grad, out=scratch), weight2)
            torch.sqrt(second_moment, out=scratch).add_(self.settings.eps * root)
            torch.div(grad, scratch, out=scratch).mul_(root)
            value.addcmul_(momentum.lerp_(scratch, weight1), step_size, value=-1)


def _log(beta: float) -> float:
    return math.log(beta) if beta > 0 else -math.inf
