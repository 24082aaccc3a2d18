"""Flat optimisers against torch's AdamW, against per-tensor references and against numbers worked out by hand."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Sequence

import pytest
import torch
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from training.tiny_training import TinyModel, make_batch
from worldline.errors import ConfigError, DataError
from worldline.protocols import ParamGroup
from worldline.training import groups
from worldline.training.optim import Optimizer, build_optimizer


def build(model: nn.Module, *groups: ParamGroup, weight_decay: float = 0.0, grad_clip: float = 0.0) -> Optimizer:
    return build_optimizer(model, groups, weight_decay=weight_decay, grad_clip=grad_clip)


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def set_grads(params: Sequence[nn.Parameter], step: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(step)
    for param in params:
        assert param.grad is not None
        param.grad.copy_(torch.randn(param.shape, generator=generator) * scale)


def one_step(optimizer: Optimizer, learning_rate: float) -> None:
    optimizer.step(learning_rate, optimizer.measure())


@pytest.mark.parametrize(("weight_decay", "grad_clip"), [(0.0, 0.0), (0.1, 1.0)])
def test_flat_adamw_equals_torch_adamw_over_1000_steps(weight_decay: float, grad_clip: float) -> None:
    ours, theirs = net(), net()
    optimizer = build(
        ours, ParamGroup(name="all", params=list(ours.parameters())), weight_decay=weight_decay, grad_clip=grad_clip
    )
    reference = torch.optim.AdamW(theirs.parameters(), lr=1e-3, weight_decay=weight_decay)
    for step in range(1000):
        for param in theirs.parameters():
            param.grad = torch.zeros_like(param)
        set_grads(list(ours.parameters()), step)
        set_grads(list(theirs.parameters()), step)
        one_step(optimizer, 1e-3)
        if grad_clip:
            nn.utils.clip_grad_norm_(theirs.parameters(), grad_clip)
        reference.step()
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-6)


class ReferenceLaProp:
    """Tensor by tensor, in double precision, in the order of the published code: AGC, RMS, momentum, decay, rate."""

    def __init__(self, params: Sequence[Tensor], *, agc: float, weight_decay: float, eps: float) -> None:
        self.params = [param.detach().double().clone() for param in params]
        self.mu = [torch.zeros_like(param) for param in self.params]
        self.nu = [torch.zeros_like(param) for param in self.params]
        self.agc, self.weight_decay, self.eps = agc, weight_decay, eps
        self.count = 0

    def step(self, grads: Sequence[Tensor], learning_rate: float) -> None:
        self.count += 1
        for index, grad in enumerate(grads):
            param, update = self.params[index], grad.double()
            if self.agc:
                upper = self.agc * max(1e-3, float(param.norm()))
                update = update / max(1.0, float(update.norm()) / upper)
            self.nu[index] = 0.999 * self.nu[index] + 0.001 * update**2
            nu_hat = self.nu[index] / (1 - 0.999**self.count)
            update = update / (nu_hat.sqrt() + self.eps)
            self.mu[index] = 0.9 * self.mu[index] + 0.1 * update
            update = self.mu[index] / (1 - 0.9**self.count)
            if param.ndim >= 2:
                update = update + self.weight_decay * param
            self.params[index] = param - learning_rate * update


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("agc", [0.0, 0.3])
@pytest.mark.parametrize("chunk", [groups._CPU_CHUNK, 16])
def test_laprop_equals_the_reference(
    agc: float, weight_decay: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "_CPU_CHUNK", chunk)
    model = net()
    params = list(model.parameters())
    reference = ReferenceLaProp(params, agc=agc, weight_decay=weight_decay, eps=1e-20)
    group = ParamGroup(name="all", params=params, algorithm="laprop", agc=agc, eps=1e-20)
    optimizer = build(model, group, weight_decay=weight_decay)
    for step in range(100):
        set_grads(params, step, scale=10 ** (step % 5 - 2))
        grads = [param.grad.clone() for param in params if param.grad is not None]
        one_step(optimizer, 1e-2)
        reference.step(grads, 1e-2)
    for own, other in zip(params, reference.params, strict=True):
        torch.testing.assert_close(own.double(), other, rtol=1e-5, atol=1e-6)


def test_first_laprop_steps_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(2.0)
    optimizer = build(model, ParamGroup(name="all", params=[model.weight], algorithm="laprop", eps=1e-20))
    assert model.weight.grad is not None
    model.weight.grad.fill_(-0.5)
    one_step(optimizer, 0.1)
    assert model.weight.item() == pytest.approx(2.1)  # v_hat = g^2: a step of lr * sign(g)
    model.weight.grad.fill_(1.0)
    one_step(optimizer, 0.1)
    scaled = 1.0 / math.sqrt((0.999 * 0.25e-3 + 1e-3) / (1 - 0.999**2))
    momentum = (0.9 * -0.1 + 0.1 * scaled) / (1 - 0.9**2)
    assert model.weight.item() == pytest.approx(2.1 - 0.1 * momentum, rel=1e-6)


def test_adaptive_clipping_by_hand() -> None:
    model = nn.ParameterList([torch.tensor([3.0, 4.0]), torch.zeros(2), torch.tensor([30.0, 40.0])])
    params = list(model.parameters())
    optimizer = build(model, ParamGroup(name="all", params=params, agc=0.3), grad_clip=1.0)
    for param in params:
        assert param.grad is not None
        param.grad.copy_(torch.tensor([6.0, 8.0]))
    norms = optimizer.measure()
    assert norms.total.item() == pytest.approx(math.sqrt(300))
    optimizer.step(1e-3, norms)
    clipped = [param.grad for param in params]
    torch.testing.assert_close(clipped[0], torch.tensor([0.9, 1.2]))  # to norm 0.3 * 5
    torch.testing.assert_close(clipped[1], torch.tensor([6.0, 8.0]) * 3e-5)  # to 0.3 * 1e-3
    torch.testing.assert_close(clipped[2], torch.tensor([6.0, 8.0]))  # below 0.3 * 50; the joint rule is not applied


def test_a_groups_norm_is_clipped_before_its_tensors() -> None:
    model = nn.ParameterList([torch.tensor([3.0, 4.0]), torch.tensor([30.0, 40.0])])
    params = list(model.parameters())
    optimizer = build(model, ParamGroup(name="all", params=params, agc=0.3, max_grad_norm=5.0))
    for param, value in zip(params, ([6.0, 8.0], [0.0, 0.0]), strict=True):
        assert param.grad is not None
        param.grad.copy_(torch.tensor(value))
    one_step(optimizer, 1e-3)
    torch.testing.assert_close(params[0].grad, torch.tensor([0.9, 1.2]))  # 10 -> 5 -> 1.5


def clipped_change(grads: Sequence[float], groups: Sequence[dict[str, object]], grad_clip: float) -> list[float]:
    """Return the second moments after one step, which show what gradient the rule saw: v = 0.001 * g^2."""
    model = nn.ParameterList([torch.ones(1) for _ in grads])
    params = list(model.parameters())
    optimizer = build(
        model,
        *(ParamGroup(name=str(i), params=[param], **groups[i]) for i, param in enumerate(params)),  # type: ignore[arg-type]
        grad_clip=grad_clip,
    )
    for param, grad in zip(params, grads, strict=True):
        assert param.grad is not None
        param.grad.fill_(grad)
    one_step(optimizer, 1e-3)
    moments = [value for name, value in optimizer.state_dict().items() if name.startswith(("exp_avg_sq", "second"))]
    return [math.sqrt(float(moment) * 1e3) for moment in moments]


def test_groups_without_a_rule_of_their_own_are_clipped_jointly() -> None:
    plain: dict[str, object] = {}
    assert clipped_change([3.0, 4.0], [plain, plain], 0.0) == pytest.approx([3.0, 4.0], rel=1e-4)
    assert clipped_change([3.0, 4.0], [plain, plain], 10.0) == pytest.approx([3.0, 4.0], rel=1e-4)
    assert clipped_change([3.0, 4.0], [plain, plain], 1.0) == pytest.approx([0.6, 0.8], rel=1e-4)
    assert clipped_change([3.0, 4.0], [plain, {"algorithm": "laprop"}], 1.0) == pytest.approx([0.6, 0.8], rel=1e-4)


def test_a_rule_of_its_own_takes_a_group_out_of_the_joint_one() -> None:
    groups: list[dict[str, object]] = [{}, {"max_grad_norm": 2.0}]
    assert clipped_change([3.0, 4.0], groups, 1.0) == pytest.approx([1.0, 2.0], rel=1e-4)


def test_groups_that_are_clipped_together_share_a_norm() -> None:
    own: dict[str, object] = {"max_grad_norm": 1.0, "clipped_with": "a"}
    assert clipped_change([3.0, 4.0], [own, own], 0.0) == pytest.approx([0.6, 0.8], rel=1e-4)
    other: dict[str, object] = {"max_grad_norm": 1.0, "clipped_with": "b"}
    assert clipped_change([3.0, 4.0], [own, other], 0.0) == pytest.approx([1.0, 1.0], rel=1e-4)


def test_groups_scale_the_rate_and_set_their_own_decay() -> None:
    model = nn.ParameterList([torch.ones(1), torch.ones(1), torch.ones(1)])
    first, second, third = model.parameters()
    optimizer = build(
        model,
        ParamGroup(name="a", params=[first]),
        ParamGroup(name="b", params=[second], lr_scale=0.5),
        ParamGroup(name="c", params=[third], weight_decay=0.0),
        weight_decay=0.1,
    )
    one_step(optimizer, 0.1)  # gradients are zero: the decay alone moves them
    assert first.item() == pytest.approx(0.99)
    assert second.item() == pytest.approx(0.995)
    assert third.item() == 1.0


def test_parameters_stay_the_same_objects_and_values() -> None:
    model = net()
    before = {name: (param, param.detach().clone()) for name, param in model.named_parameters()}
    optimizer = build(model, ParamGroup(name="all", params=list(model.parameters())))
    for _ in range(2):
        for name, param in model.named_parameters():
            assert param is before[name][0]
            assert torch.equal(param, before[name][1])
        optimizer.release()
        assert all(param.grad is None for param in model.parameters())


def test_flat_parameters_are_aligned_and_contiguous_in_one_buffer() -> None:
    model = net()
    build(model, ParamGroup(name="all", params=list(model.parameters())))
    pointers = [param.data_ptr() for param in model.parameters()]
    assert all((pointer - pointers[0]) % 64 == 0 for pointer in pointers)
    assert len({param.untyped_storage().data_ptr() for param in model.parameters()}) == 1


def test_an_attached_model_is_saved_copied_and_loaded_as_any_other() -> None:
    model = net()
    optimizer = build(model, ParamGroup(name="all", params=list(model.parameters())))
    twin = copy.deepcopy(model)
    other = net(seed=1)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    assert len(save_tensors(model.state_dict())) > 0
    model.load_state_dict(other.state_dict())
    set_grads(list(model.parameters()), 0)
    one_step(optimizer, 0.1)
    for own, copied, source in zip(model.parameters(), twin.parameters(), other.parameters(), strict=True):
        assert own.untyped_storage().data_ptr() != copied.untyped_storage().data_ptr()
        assert not torch.equal(own, source)  # the step went to the loaded values, not to a stale buffer
        torch.testing.assert_close(own, source, rtol=0, atol=0.11)


def test_a_released_parameter_owns_its_memory_and_attaches_again() -> None:
    model = net()
    optimizer = build(model, ParamGroup(name="all", params=list(model.parameters())))
    set_grads(list(model.parameters()), 0)
    one_step(optimizer, 0.1)
    optimizer.release()
    for param in model.parameters():
        assert param.untyped_storage().nbytes() == param.numel() * 4
    optimizer.attach()
    set_grads(list(model.parameters()), 1)
    one_step(optimizer, 0.1)

    straight = net()
    steady = build(straight, ParamGroup(name="all", params=list(straight.parameters())))
    for step in range(2):
        set_grads(list(straight.parameters()), step)
        one_step(steady, 0.1)
    for own, other in zip(model.parameters(), straight.parameters(), strict=True):
        assert torch.equal(own, other)


def test_a_model_moved_before_release_keeps_its_newer_values() -> None:
    model = net()
    optimizer = build(model, ParamGroup(name="all", params=list(model.parameters())))
    model.double()
    with torch.no_grad():
        for param in model.parameters():
            param.fill_(7.0)
    optimizer.release()
    assert all(bool((param == 7.0).all()) and param.dtype == torch.float64 for param in model.parameters())


def test_gradients_that_were_dropped_or_replaced_are_collected() -> None:
    model = net()
    params = list(model.parameters())
    optimizer = build(model, ParamGroup(name="all", params=params))
    for param in params:
        assert param.grad is not None
        param.grad.fill_(3.0)
    params[0].grad = None
    params[1].grad = torch.full_like(params[1], 2.0)
    norms = optimizer.measure()
    expected = math.sqrt(4 * params[1].numel() + 9 * (params[2].numel() + params[3].numel()))
    assert norms.total.item() == pytest.approx(expected)
    assert all(param.grad is view for param, view in zip(params, optimizer.groups[0].flat.grad_views, strict=True))


def test_a_parameter_outside_the_graph_has_a_zero_gradient_and_stays() -> None:
    model = TinyModel()
    unused = nn.Parameter(torch.ones(3))
    model.unused = unused
    optimizer = build(model, *model.param_groups())
    for step in range(3):
        optimizer.zero_grad()
        model.compute_loss(make_batch(step))["loss"].backward()
        one_step(optimizer, 0.1)
    assert torch.equal(unused, torch.ones(3))


def test_memory_formats_are_kept() -> None:
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build(model, ParamGroup(name="all", params=list(model.parameters())))
    assert model.weight.is_contiguous(memory_format=torch.channels_last)
    state = optimizer.state_dict()
    assert all(tensor.is_contiguous() for tensor in state.values())
    optimizer.load_state_dict(state)


@pytest.mark.parametrize("algorithm", ["adamw", "laprop"])
def test_state_survives_a_round_trip_bit_for_bit(algorithm: str) -> None:
    models = [TinyModel(algorithm=algorithm, agc=0.3) for _ in range(2)]
    first, second = (build(model, *model.param_groups()) for model in models)
    params = [list(model.parameters()) for model in models]
    for step in range(3):
        set_grads(params[0], step)
        one_step(first, 1e-2)
    second.load_state_dict({name: tensor.clone() for name, tensor in first.state_dict().items()})
    models[1].load_state_dict(models[0].state_dict())
    for optimizer, own in ((first, params[0]), (second, params[1])):
        set_grads(own, 7)
        one_step(optimizer, 1e-2)
    for one, other in zip(*params, strict=True):
        assert torch.equal(one, other)


def test_state_of_another_model_is_refused() -> None:
    model = net()
    optimizer = build(model, ParamGroup(name="all", params=list(model.parameters())))
    state = optimizer.state_dict()
    missing = {name: tensor for name, tensor in state.items() if name != "exp_avg/0.weight"}
    with pytest.raises(DataError, match=r"exp_avg/0\.weight"):
        optimizer.load_state_dict(missing)
    with pytest.raises(DataError, match=r"exp_avg/0\.weight.*shape \(1,\), expected \(5, 3\)"):
        optimizer.load_state_dict({**state, "exp_avg/0.weight": torch.zeros(1)})
    laprop = build(model, ParamGroup(name="all", params=list(model.parameters()), algorithm="laprop"))
    with pytest.raises(DataError, match="does not fit"):
        laprop.load_state_dict(state)


def test_impossible_groups_are_refused() -> None:
    model = net()
    params = list(model.parameters())
    good = ParamGroup(name="all", params=params)
    cases: list[tuple[list[ParamGroup], str]] = [
        ([], "no parameter to train"),
        ([ParamGroup(name="x", params=[nn.Parameter(torch.zeros(2))])], "not one of the model's"),
        ([good, ParamGroup(name="again", params=params[:1])], "in 'all' and in 'again'"),
        ([ParamGroup(name="x", params=params[:1]), ParamGroup(name="x", params=params[1:])], "same name"),
        ([ParamGroup(name="x", params=params, algorithm="sgd")], "'sgd'. Known: adamw, laprop"),  # type: ignore[arg-type]
        ([ParamGroup(name="x", params=params, eps=0.0)], "eps > 0"),
    ]
    for case, message in cases:
        with pytest.raises(ConfigError, match=message):
            build(model, *case)
    params[0].data = params[0].data.double()
    with pytest.raises(ConfigError, match="mixes"):
        build(model, good)


@pytest.mark.parametrize("algorithm", ["adamw", "laprop"])
def test_double_precision_is_clipped_too(algorithm: str) -> None:
    model = nn.ParameterList([torch.ones(2, dtype=torch.float64)])
    params = list(model.parameters())
    optimizer = build(model, ParamGroup(name="all", params=params, algorithm=algorithm), grad_clip=1.0)  # type: ignore[arg-type]
    assert params[0].grad is not None
    params[0].grad.copy_(torch.tensor([3.0, 4.0]))
    one_step(optimizer, 0.1)
    torch.testing.assert_close(params[0].grad, torch.tensor([0.6, 0.8], dtype=torch.float64), rtol=1e-6, atol=0)


def test_frozen_parameters_are_left_out() -> None:
    model = net()
    frozen = model[0].weight
    frozen.requires_grad_(False)
    build(model, ParamGroup(name="all", params=list(model.parameters())), weight_decay=0.5)
    assert frozen.grad is None


def test_non_finite_weights_are_seen() -> None:
    model = net()
    optimizer = build(model, ParamGroup(name="all", params=list(model.parameters())))
    assert optimizer.is_finite()
    with torch.no_grad():
        model[0].bias[0] = float("nan")
    assert not optimizer.is_finite()


@pytest.mark.parametrize("kind", ["fused", "as for MPS", "laprop"])
def test_a_step_that_the_device_leaves_out_changes_nothing_and_is_not_counted(kind: str) -> None:
    rule = {"algorithm": "laprop", "eps": 1e-20, "agc": 0.3} if kind == "laprop" else {}
    plain, guarded = net(), net()
    optimizers = []
    for model in (plain, guarded):
        group = ParamGroup(name="all", params=list(model.parameters()), **rule)  # type: ignore[arg-type]
        optimizers.append(build(model, group, weight_decay=0.1, grad_clip=1.0))
    if kind == "as for MPS":
        optimizers[1].groups[0]._kernel_divides_and_skips = False  # type: ignore[attr-defined]
    zero, one = torch.tensor(0.0), torch.tensor(1.0)
    for step in range(20):
        set_grads(list(plain.parameters()), step)
        one_step(optimizers[0], 1e-2)
        if step in (0, 7, 8):
            before = [buffer.clone() for buffer in optimizers[1].buffers()]
            set_grads(list(guarded.parameters()), step, scale=math.nan if step else math.inf)
            optimizers[1].step(1e-2, optimizers[1].measure(), one)
            assert all(torch.equal(new, old) for new, old in zip(optimizers[1].buffers(), before, strict=True))
        optimizers[1].zero_grad()
        set_grads(list(guarded.parameters()), step)
        optimizers[1].step(1e-2, optimizers[1].measure(), zero)
    for own, other in zip(guarded.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)
    assert optimizers[1].state_dict()["num_updates/all"].item() == 20


@pytest.mark.parametrize(
    "rule", [{}, {"max_grad_norm": 0.2}, {"agc": 0.3, "max_grad_norm": 0.5}, {"algorithm": "laprop"}]
)
def test_gradients_of_a_scaled_loss_are_unscaled_where_they_are_clipped(rule: dict[str, object]) -> None:
    models = net(), net()
    scale = torch.tensor(1024.0)
    norms = []
    for model, given in zip(models, (None, scale), strict=True):
        group = ParamGroup(name="all", params=list(model.parameters()), **rule)  # type: ignore[arg-type]
        optimizer = build(model, group, grad_clip=1.0)
        for step in range(5):
            set_grads(list(model.parameters()), step, scale=1.0 if given is None else 1024.0)
            measured = optimizer.measure(given)
            optimizer.step(1e-2, measured)
        norms.append(measured.total)
    torch.testing.assert_close(norms[0], norms[1])
    for own, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)
