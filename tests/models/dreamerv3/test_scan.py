from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.dreamerv3.tiny_dreamer import make_config
from worldline.models.dreamerv3.rssm import RSSM, State
from worldline.models.dreamerv3.scan import ScanOutputs, gate, matrix_dtype
from worldline.ops import linear as linear_ops

TOKENS, ACTIONS = 6, 2

SMALL = {"deter": 8, "hidden": 3, "stoch": 2, "classes": 3, "blocks": 1}
MEDIUM = {"deter": 32, "hidden": 8, "stoch": 4, "classes": 16, "blocks": 4}  # more classes than `_FEW_CLASSES`
# Blocks so large that each one is a product of its own.
LARGE = {"deter": 1024, "hidden": 32, "stoch": 8, "classes": 4, "blocks": 4}


class Problem:
    """A recurrent model, the inputs of a sequence, and a gradient for every output."""

    def __init__(self, *, time: int = 5, batch: int = 3, seed: int = 0, **settings: Any) -> None:
        torch.manual_seed(seed)
        self.config = make_config(**settings)
        self.rssm = RSSM(self.config, TOKENS)
        with torch.no_grad():
            for parameter in self.rssm.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
            # Logits far enough apart that rounding does not change the mode.
            self.rssm.post_out.weight.mul_(4)
        latent = self.config.stoch * self.config.classes
        self.inputs = {
            "tokens": torch.randn(time, batch, TOKENS),
            "actions": torch.randn(time, batch, ACTIONS) * 1.5,
            "deter": torch.rand(batch, self.config.deter) * 2 - 1,
            "stoch": torch.rand(batch, latent),
        }
        self.is_first = torch.zeros(time, batch, dtype=torch.bool)
        self.is_first[0, 0] = True
        self.is_first[2, :2] = True
        sizes = (self.config.deter, latent, latent)
        self.grads = [torch.randn(time, batch, size) for size in sizes]
        self.choice = torch.rand(time, batch, self.config.stoch)

    def scan(self, uniform: Tensor | None) -> ScanOutputs:
        inputs = self.inputs
        state = State(deter=inputs["deter"], stoch=inputs["stoch"])
        return self.rssm.observe(inputs["tokens"], inputs["actions"], self.is_first, uniform, state)

    def plain(self, how: str) -> tuple[ScanOutputs, Tensor | None]:
        """Return the outputs of a loop over steps, and the noise that makes the scan take the same samples.

        "any" samples every class, "top" the likeliest ones, both by noise; "mode" takes those without noise. The noise
        is the middle of the interval that the class has, where rounding cannot change the class.
        """
        inputs, rssm = self.inputs, self.rssm
        deter, stoch = inputs["deter"], inputs["stoch"]
        outputs, noise = [], []
        for time in range(len(self.is_first)):
            keep = (~self.is_first[time]).float()[:, None]
            state = State(deter=deter * keep, stoch=stoch * keep)
            deter = rssm.step(state, inputs["actions"][time] * keep, rssm.step_weights())
            logits = rssm.posterior(deter, inputs["tokens"][time])
            probs = rssm.probs(logits)
            flat = probs.detach()
            drawn = (self.choice[time] * self.config.classes).long() if how == "any" else flat.argmax(-1)
            sample = F.one_hot(drawn, self.config.classes).float()
            noise.append((flat.cumsum(-1) * sample).sum(-1) - 0.5 * (flat * sample).sum(-1))
            stoch = (sample + probs - flat).flatten(-2)  # straight through
            outputs.append((deter, stoch, logits))
        stacked = ScanOutputs(*(torch.stack(values) for values in zip(*outputs, strict=True)))
        return stacked, None if how == "mode" else torch.stack(noise)

    def leaves(self) -> dict[str, Tensor]:
        """Every tensor that takes a gradient: inputs and parameters; the prior is no part of the scan."""
        parameters = {name: p for name, p in self.rssm.named_parameters() if not name.startswith("prior")}
        return self.inputs | parameters

    def gradients(self, outputs: ScanOutputs) -> dict[str, Tensor]:
        leaves = self.leaves()
        loss = sum((output * grad).sum() for output, grad in zip(outputs, self.grads, strict=True))
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


@pytest.fixture
def only_torch(monkeypatch: pytest.MonkeyPatch):
    """Return a function that replaces our own gradients by those of torch's operators."""

    def norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
        x = x.float()
        return F.silu(x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * scale)

    def patch() -> None:
        monkeypatch.setattr(linear_ops, "uses_onednn", lambda _x: False)
        monkeypatch.setattr("worldline.nn.layers.rms_norm_silu", norm)

    yield patch
    monkeypatch.undo()


def relative(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    ours, theirs = ours.detach().float(), theirs.detach().float()
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-12))


def check(problem: Problem, how: str, only_torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for tensor in problem.inputs.values():
        tensor.requires_grad_()
    only_torch()
    expected, uniform = problem.plain(how)
    expected_grads = problem.gradients(expected)
    monkeypatch.undo()
    outputs = problem.scan(uniform)
    grads = problem.gradients(outputs)
    for name, ours, theirs in zip(ScanOutputs._fields, outputs, expected, strict=True):
        assert relative(ours, theirs) < 1e-5, name
    for name, theirs in expected_grads.items():
        assert theirs.abs().sum() > 0, name
        assert relative(grads[name], theirs) < 3e-5, name


@pytest.mark.parametrize("how", ["any", "mode"])
@pytest.mark.parametrize("unimix", [0.0, 0.01, 0.3])
@pytest.mark.parametrize("size", [SMALL, MEDIUM], ids=["small", "medium"])
def test_the_scan_is_the_loop(
    size: dict[str, int], unimix: float, how: str, only_torch: Any, monkeypatch: pytest.MonkeyPatch
):
    check(Problem(**size, unimix=unimix), how, only_torch, monkeypatch)


@pytest.mark.parametrize("how", ["any", "mode"])
def test_the_scan_is_the_loop_where_blocks_are_large(how: str, only_torch: Any, monkeypatch: pytest.MonkeyPatch):
    problem = Problem(**LARGE, time=3, batch=8)
    own = problem.config.deter // problem.config.blocks
    assert 8 * own * own >= linear_ops._MIN_WORK, "the size does not take the path by block"
    check(problem, how, only_torch, monkeypatch)


@pytest.mark.parametrize(("time", "batch"), [(1, 1), (1, 4), (9, 1)])
def test_one_row_and_one_window(time: int, batch: int, only_torch: Any, monkeypatch: pytest.MonkeyPatch):
    problem = Problem(**MEDIUM, time=9, batch=4)
    problem.inputs = {
        name: value[:time, :batch].clone() if name in ("tokens", "actions") else value[:batch].clone()
        for name, value in problem.inputs.items()
    }
    problem.is_first = torch.zeros(time, batch, dtype=torch.bool)
    problem.grads = [grad[:time, :batch] for grad in problem.grads]
    problem.choice = problem.choice[:time, :batch]
    check(problem, "any", only_torch, monkeypatch)


def test_samples_have_the_value_of_a_class_and_the_gradient_of_its_probability():
    problem = Problem(**MEDIUM)
    problem.is_first[-1] = True  # so that the last logits come from the last row alone
    _, uniform = problem.plain("any")
    outputs = problem.scan(uniform)
    one_hot = outputs.stoch.detach().unflatten(-1, (4, 16))
    assert ((one_hot == 0) | (one_hot == 1)).all()
    assert (one_hot.sum(-1) == 1).all()
    grad = problem.grads[1][-1]
    (ours,) = torch.autograd.grad((outputs.stoch[-1] * grad).sum(), problem.rssm.post_out.bias)
    logits = outputs.logits[-1].detach().requires_grad_()
    (theirs,) = torch.autograd.grad((problem.rssm.probs(logits).flatten(-2) * grad).sum(), logits)
    assert relative(ours, theirs.sum(0)) < 1e-5


@pytest.mark.parametrize("row", [1, 3])
def test_nothing_crosses_the_beginning_of_an_episode(row: int):
    problem = Problem(**MEDIUM)
    for tensor in problem.inputs.values():
        tensor.requires_grad_()
    problem.is_first = torch.zeros(5, 3, dtype=torch.bool)
    problem.is_first[row, 1] = True
    uniform = torch.rand(5, 3, 4, generator=torch.Generator().manual_seed(1))
    before = problem.scan(uniform)
    later = sum((output[row:, 1] * grad[row:, 1]).sum() for output, grad in zip(before, problem.grads, strict=True))
    grads = dict(zip(problem.inputs, torch.autograd.grad(later, list(problem.inputs.values())), strict=True))
    assert (grads["tokens"][:row] == 0).all()
    assert (grads["actions"][: row + 1] == 0).all()  # the action that led there belongs to the episode before
    assert (grads["deter"] == 0).all()
    assert (grads["stoch"] == 0).all()
    assert (grads["tokens"][row:, 1] != 0).any()

    with torch.no_grad():
        for name, tensor in problem.inputs.items():
            if name in ("tokens", "actions"):
                tensor[:row] += 1
                tensor[row] += 1 if name == "actions" else 0
            else:
                tensor += 1
    after = problem.scan(uniform)
    for ours, theirs in zip(after, before, strict=True):
        assert torch.equal(ours[row:, 1], theirs[row:, 1])
        assert not torch.equal(ours[:row, 1], theirs[:row, 1])
    assert not torch.equal(after.deter[row:, 0], before.deter[row:, 0])  # where no episode began, it does matter


def test_low_precision_is_roughly_equal():
    problem = Problem(**MEDIUM)
    for tensor in problem.inputs.values():
        tensor.requires_grad_()
    expected, uniform = problem.plain("top")
    expected_grads = problem.gradients(expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert matrix_dtype(torch.device("cpu")) == torch.bfloat16
        outputs = problem.scan(uniform)
    assert all(output.dtype == torch.float32 for output in outputs)
    assert torch.equal(outputs.stoch, expected.stoch.detach().round())
    for name, ours, theirs in zip(ScanOutputs._fields, outputs, expected, strict=True):
        assert relative(ours, theirs) < 0.03, name
    for name, ours in problem.gradients(outputs).items():
        assert ours.dtype == torch.float32
        assert relative(ours, expected_grads[name]) < 0.1, name


def test_the_gate_by_hand():
    # reset 1/2 of candidate 2 is tanh(1); update sigmoid(0) = 1/2 of the way from 3 there
    gates = torch.tensor([[0.0], [2.0], [1.0]])
    expected = 0.5 * 3 + 0.5 * torch.tanh(torch.tensor([1.0]))
    assert torch.allclose(gate(gates, torch.tensor([3.0])), expected)


def test_the_gate_in_the_memory_of_its_input():
    torch.manual_seed(0)
    gates, deter = torch.randn(3, 5, 8), torch.randn(5, 8)
    expected, before = gate(gates, deter), deter.clone()
    assert torch.allclose(gate(gates.clone(), deter, overwrite=True), expected, atol=1e-6)
    assert torch.equal(deter, before)


def test_gradient_of_the_gate():
    gates = torch.randn(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    deter = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    assert torch.autograd.gradcheck(gate, (gates, deter))


def test_every_part_of_the_scan_can_be_left_without_gradient():
    problem = Problem(**SMALL)
    for combination in itertools.product([False, True], repeat=2):
        for name, wanted in zip(("tokens", "deter"), combination, strict=True):
            problem.inputs[name] = problem.inputs[name].detach().requires_grad_(wanted)
        problem.rssm.zero_grad()
        problem.scan(None).deter.sum().backward()
        for name, wanted in zip(("tokens", "deter"), combination, strict=True):
            assert (problem.inputs[name].grad is not None) == wanted
