"""The posterior recurrence over a whole sequence as one differentiable operation.

Automatic differentiation of the loop over time computes every weight's gradient once per time step, from a batch of
16 rows, and adds them up: 64 passes over all weights, and 60,000 operator calls. Here the backward loop carries only
the gradient of the state; what the weights get is one product over all rows after it. What depends on the inputs alone
(actions, observations) is computed before the loop by the caller, for all steps at once, and so are the derivatives of
all nonlinearities before the backward loop.

The recurrence is that of `rssm.RSSM.step` followed by its posterior, which the tests hold it against.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from worldline.nn.layers import NormSiLU
from worldline.ops.distributions import categorical_sample, mix_uniform, softmax
from worldline.ops.linear import block_product, block_weight_grad, join_parts, product, split_parts
from worldline.ops.norm import inverse_rms, rms_norm_silu


class ScanWeights(NamedTuple):
    """What the recurrence multiplies with. h hidden, D deter, Z = stoch * classes, G blocks."""

    deter_weight: Tensor  # [h, D]
    deter_bias: Tensor  # [h]
    deter_scale: Tensor  # [h]
    stoch_weight: Tensor  # [h, Z]
    stoch_bias: Tensor  # [h]
    stoch_scale: Tensor  # [h]
    hidden_block: Tensor  # [G, D/G, D/G], the part that sees the block's own deter
    hidden_dense: Tensor  # [D, 2h], the part that sees both embeddings
    hidden_scale: Tensor  # [D]
    gate_block: Tensor  # [G, D/G, 3D/G]
    gate_bias: Tensor  # [3D]
    post_weight: Tensor  # [h, D], the part that sees deter
    post_scale: Tensor  # [h]
    logit_weight: Tensor  # [Z, h]
    logit_bias: Tensor  # [Z]


class ScanInputs(NamedTuple):
    """What the recurrence is driven by, time first."""

    action_part: Tensor  # [T, B, D], the action's share of the hidden layer, with its bias
    token_part: Tensor  # [T, B, h], the observation's share of the posterior layer, with its bias
    keep: Tensor  # [T, B, 1], 0 where an episode begins
    uniform: Tensor | None  # [T, B, S] noise in [0, 1), or None for the mode
    deter: Tensor  # [B, D], the state before row 0
    stoch: Tensor  # [B, Z]


class ScanOutputs(NamedTuple):
    """The states of all rows, time first."""

    deter: Tensor  # [T, B, D]
    stoch: Tensor  # [T, B, Z], one-hot with the gradient of the probabilities
    logits: Tensor  # [T, B, Z], before mixing with the uniform distribution


def posterior_scan(inputs: ScanInputs, weights: ScanWeights, *, classes: int, unimix: float) -> ScanOutputs:
    """Run the recurrence; differentiable in the parts, the first state and the weights."""
    return ScanOutputs(*_PosteriorScan.apply(classes, unimix, *inputs, *weights))  # type: ignore[no-untyped-call]


def matrix_dtype(device: torch.device) -> torch.dtype:
    """Return the type in which products are to be computed: autocast's, or float32."""
    kind = device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32


def gate(gates: Sequence[Tensor], deter: Tensor, *, overwrite: bool = False, out: Tensor | None = None) -> Tensor:
    """Return the next deter `[..., D]` from the GRU's gates and `deter`.

    Args:
        gates: Reset, candidate and update, each `[..., D]`.
        deter: `[..., D]`.
        overwrite: Compute in the memory of `gates`, which are not to be used again.
        out: Where to write the result, if not to new memory; without gradient.
    """
    reset, candidate, update = gates
    # Twice the sigmoid of 2x, less one, is tanh: on a CPU ten times faster than torch.tanh.
    if overwrite:
        candidate = reset.sigmoid_().mul_(candidate).mul_(2).sigmoid_().mul_(2).sub_(1)
        return torch.lerp(deter, candidate, update.sub_(1).sigmoid_(), out=out)
    candidate = torch.sigmoid(2 * torch.sigmoid(reset) * candidate) * 2 - 1
    return torch.lerp(deter, candidate, torch.sigmoid(update - 1), out=out)


class _Stacks:
    """What the forward loop leaves for the backward one: lists of one tensor a step, stacked when it is over."""

    names = ("deter_prev", "stoch_prev", "deter_pre", "stoch_pre", "embedding", "hidden_pre", "hidden", "gates")

    def __init__(self) -> None:
        self.lists: dict[str, list[Tensor]] = {name: [] for name in (*self.names, "post_pre", "post")}

    def add(self, **values: Tensor) -> None:
        for name, value in values.items():
            self.lists[name].append(value)

    def stacked(self) -> list[Tensor]:
        return [torch.stack(values) for values in self.lists.values()]


class _PosteriorScan(torch.autograd.Function):
    """Forward and backward of `posterior_scan`."""

    @staticmethod
    def forward(ctx: Any, classes: int, unimix: float, *tensors: Any) -> tuple[Tensor, ...]:
        count = len(ScanInputs._fields)
        inputs, weights = ScanInputs(*tensors[:count]), ScanWeights(*tensors[count:])
        dtype = matrix_dtype(inputs.deter.device)
        with torch.autocast(inputs.deter.device.type, enabled=False):
            outputs, stacks = _forward(inputs, _cast(weights, dtype), classes, unimix)
        ctx.classes, ctx.unimix, ctx.dtype = classes, unimix, dtype
        ctx.save_for_backward(inputs.keep, *outputs, *stacks.stacked(), *weights)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        keep, *saved = ctx.saved_tensors
        outputs = ScanOutputs(*saved[:3])
        weights = ScanWeights(*saved[-len(ScanWeights._fields) :])
        stacks = _Saved(*saved[3 : -len(ScanWeights._fields)])
        with torch.autocast(keep.device.type, enabled=False):
            return (None, None, *_backward(_Problem(ctx, keep, outputs, stacks, weights), ScanOutputs(*grads)))


def _cast(weights: ScanWeights, dtype: torch.dtype) -> ScanWeights:
    """Return the weights with matrices and the biases added by their products dense and in `dtype`."""
    scales = {"deter_scale", "stoch_scale", "hidden_scale", "post_scale", "gate_bias"}
    values = {name: value if name in scales else value.to(dtype) for name, value in weights._asdict().items()}
    # Slices of larger matrices would be copied at every step.
    dense = {name: value.contiguous() if value.ndim == 2 else value for name, value in values.items()}
    return ScanWeights(**dense)


def _forward(
    inputs: ScanInputs, weights: ScanWeights, classes: int, unimix: float
) -> tuple[tuple[Tensor, Tensor, Tensor], _Stacks]:
    w, dtype = weights, weights.deter_weight.dtype
    gate_bias = split_parts(w.gate_bias, len(w.gate_block), 3)
    stacks = _Stacks()
    deter, stoch = inputs.deter, inputs.stoch
    rows, features = stoch.shape
    deters, stochs, logit_list = [], [], []
    noise = [None] * len(inputs.keep) if inputs.uniform is None else inputs.uniform.unbind(0)
    steps = zip(inputs.action_part.unbind(0), inputs.token_part.unbind(0), inputs.keep.unbind(0), noise, strict=True)
    for action_part, token_part, keep, uniform in steps:
        deter_prev, stoch_prev = deter * keep, stoch * keep
        deter_low = deter_prev.to(dtype)
        deter_pre = product(deter_low, w.deter_weight, w.deter_bias).float()
        stoch_pre = product(stoch_prev.to(dtype), w.stoch_weight, w.stoch_bias).float()
        deter_in = rms_norm_silu(deter_pre, w.deter_scale, NormSiLU.eps)
        stoch_in = rms_norm_silu(stoch_pre, w.stoch_scale, NormSiLU.eps)
        embedding = torch.cat([deter_in, stoch_in], 1).to(dtype)
        hidden_pre = block_product(deter_low, w.hidden_block).float() + action_part
        hidden_pre += product(embedding, w.hidden_dense)
        hidden = rms_norm_silu(hidden_pre, w.hidden_scale, NormSiLU.eps).to(dtype)
        gates = block_product(hidden, w.gate_block, 3).float().add_(gate_bias)
        deter = gate(gates.unbind(0), deter_prev)
        post_pre = product(deter.to(dtype), w.post_weight).float() + token_part
        post = rms_norm_silu(post_pre, w.post_scale, NormSiLU.eps).to(dtype)
        logits = product(post, w.logit_weight, w.logit_bias).float()
        probs = mix_uniform(logits.view(rows, -1, classes), unimix)
        stoch = categorical_sample(probs, uniform).view(rows, features)
        deters.append(deter)
        stochs.append(stoch)
        logit_list.append(logits)
        stacks.add(deter_prev=deter_prev, stoch_prev=stoch_prev, deter_pre=deter_pre, stoch_pre=stoch_pre)
        stacks.add(embedding=embedding, hidden_pre=hidden_pre, hidden=hidden, gates=gates)
        stacks.add(post_pre=post_pre, post=post)
    return (torch.stack(deters), torch.stack(stochs), torch.stack(logit_list)), stacks


class _Saved(NamedTuple):
    """The stacked tensors of the forward loop, each [T, B, ...] unless it says otherwise."""

    deter_prev: Tensor
    stoch_prev: Tensor
    deter_pre: Tensor
    stoch_pre: Tensor
    embedding: Tensor
    hidden_pre: Tensor
    hidden: Tensor
    gates: Tensor  # [T, 3, B, D]
    post_pre: Tensor
    post: Tensor


class _NormSiluGrad:
    """The backward pass of RMSNorm and SiLU at every step, with all that does not depend on the gradient done first.

    With n = x r, r = (mean(x^2) + eps)^(-1/2), y = silu(n s): for the gradient g of y and a = silu'(n s) s,
    x gets r (g a - n mean(g a n)).
    """

    def __init__(self, x: Tensor, scale: Tensor) -> None:
        self.inverse = inverse_rms(x, NormSiLU.eps)
        self.normed = x * self.inverse
        scaled = self.normed * scale
        sigmoid = torch.sigmoid(scaled)
        self.slope = sigmoid * (1 + scaled * (1 - sigmoid))
        self.factor = self.slope * scale
        self.grads: list[Tensor] = []

    def step(self, time: int, grad: Tensor) -> Tensor:
        """Return the gradient of the layer's input at one step."""
        self.grads.append(grad)
        normed = self.normed[time]
        inner = grad * self.factor[time]
        mean = (inner * normed).sum(-1, keepdim=True)
        return torch.addcmul(inner, normed, mean, value=-1 / normed.shape[-1]).mul_(self.inverse[time])

    def scale_grad(self) -> Tensor:
        """Return the gradient of the scale, once all steps are done (last one first)."""
        grads = torch.stack(self.grads[::-1])
        return (grads * self.slope * self.normed).flatten(0, -2).sum(0)


class _Problem:
    """What the backward pass works on, with all that can be computed for every step at once."""

    def __init__(self, ctx: Any, keep: Tensor, outputs: ScanOutputs, saved: _Saved, weights: ScanWeights) -> None:
        self.keep, self.saved, self.outputs = keep, saved, outputs
        self.dtype, self.unimix = ctx.dtype, ctx.unimix
        self.weights = _cast(weights, ctx.dtype)
        self.blocks = len(weights.gate_block)
        self.deter_norm = _NormSiluGrad(saved.deter_pre, weights.deter_scale)
        self.stoch_norm = _NormSiluGrad(saved.stoch_pre, weights.stoch_scale)
        self.hidden_norm = _NormSiluGrad(saved.hidden_pre, weights.hidden_scale)
        self.post_norm = _NormSiluGrad(saved.post_pre, weights.post_scale)
        self.probs = softmax(outputs.logits.unflatten(-1, (-1, ctx.classes)))  # [T, B, S, K]
        gates = saved.gates  # [T, 3, B, D]
        reset, update = torch.sigmoid(gates[:, 0]), torch.sigmoid(gates[:, 2] - 1)
        candidate = torch.sigmoid(2 * reset * gates[:, 1]) * 2 - 1
        slope = update * (1 - candidate * candidate)
        # [T, 3, B, D]: what each gate's input gets of the gradient of the next deter.
        reset_factor = slope * gates[:, 1] * reset * (1 - reset)
        update_factor = (candidate - saved.deter_prev) * update * (1 - update)
        self.gate_factor = torch.stack([reset_factor, slope * reset, update_factor], dim=1)
        self.carry_factor = 1 - update  # [T, B, D]


def _backward(problem: _Problem, grads: ScanOutputs) -> list[Tensor | None]:
    w, dtype, blocks = problem.weights, problem.dtype, problem.blocks
    gate_transposed, hidden_transposed = w.gate_block.transpose(1, 2), w.hidden_block.transpose(1, 2)
    half = w.deter_weight.shape[0]
    rows = grads.deter.shape[1]
    lists: dict[str, list[Tensor]] = {name: [] for name in ("logits", "post", "gates", "hidden", "deter", "stoch")}
    deter_grad, stoch_grad = torch.zeros_like(grads.deter[0]), torch.zeros_like(grads.stoch[0])
    for time in reversed(range(len(problem.keep))):
        probs = problem.probs[time]
        weighted = probs * (stoch_grad + grads.stoch[time]).view_as(probs)
        through = torch.addcmul(weighted, probs, weighted.sum(-1, keepdim=True), value=-1)
        logit_grad = torch.add(grads.logits[time], through.view(rows, -1), alpha=1 - problem.unimix).to(dtype)
        post_grad = problem.post_norm.step(time, product(logit_grad, w.logit_weight.t()).float())
        deter_grad = deter_grad + grads.deter[time]
        deter_grad += product(post_grad.to(dtype), w.post_weight.t())
        gate_grad = join_parts(problem.gate_factor[time] * deter_grad, blocks).to(dtype)
        hidden_grad = problem.hidden_norm.step(time, block_product(gate_grad, gate_transposed).float()).to(dtype)
        embedding_grad = product(hidden_grad, w.hidden_dense.t()).float()
        deter_pre = problem.deter_norm.step(time, embedding_grad[:, :half]).to(dtype)
        stoch_pre = problem.stoch_norm.step(time, embedding_grad[:, half:]).to(dtype)
        keep = problem.keep[time]
        deter_grad = deter_grad * problem.carry_factor[time]
        deter_grad += block_product(hidden_grad, hidden_transposed)
        deter_grad += product(deter_pre, w.deter_weight.t())
        deter_grad *= keep
        stoch_grad = product(stoch_pre, w.stoch_weight.t()).float() * keep
        step = {"logits": logit_grad, "post": post_grad, "gates": gate_grad, "hidden": hidden_grad}
        for name, value in {**step, "deter": deter_pre, "stoch": stoch_pre}.items():
            lists[name].append(value)
    stacked = {name: torch.stack(values[::-1]) for name, values in lists.items()}
    inputs = [stacked["hidden"].float(), stacked["post"], None, None, deter_grad, stoch_grad]
    return [*inputs, *_weight_grads(problem, stacked)]


def _weight_grads(problem: _Problem, grads: dict[str, Tensor]) -> ScanWeights:
    """Return what every weight gets: one product each over all T * B rows."""
    saved, dtype = problem.saved, problem.dtype
    flat = {name: grad.flatten(0, 1) for name, grad in grads.items()}

    def outer(name: str, inputs: Tensor) -> Tensor:
        return product(flat[name].to(dtype).t(), inputs.flatten(0, 1).to(dtype).t()).float()

    def block(name: str, inputs: Tensor) -> Tensor:
        return block_weight_grad(inputs.flatten(0, 1).to(dtype), flat[name].to(dtype), problem.blocks).float()

    return ScanWeights(
        deter_weight=outer("deter", saved.deter_prev),
        deter_bias=flat["deter"].float().sum(0),
        deter_scale=problem.deter_norm.scale_grad(),
        stoch_weight=outer("stoch", saved.stoch_prev),
        stoch_bias=flat["stoch"].float().sum(0),
        stoch_scale=problem.stoch_norm.scale_grad(),
        hidden_block=block("hidden", saved.deter_prev),
        hidden_dense=outer("hidden", saved.embedding),
        hidden_scale=problem.hidden_norm.scale_grad(),
        gate_block=block("gates", saved.hidden),
        gate_bias=flat["gates"].float().sum(0),
        post_weight=outer("post", problem.outputs.deter),
        post_scale=problem.post_norm.scale_grad(),
        logit_weight=outer("logits", saved.post),
        logit_bias=flat["logits"].float().sum(0),
    )
