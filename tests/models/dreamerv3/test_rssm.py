from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.dreamerv3.tiny_dreamer import make_config
from worldline.models.dreamerv3.rssm import RSSM, State
from worldline.models.dreamerv3.transition import MIN_ROWS, BlockwiseTransition

TOKENS = 6


@pytest.fixture
def rssm() -> RSSM:
    torch.manual_seed(0)
    rssm = RSSM(make_config(), TOKENS)
    with torch.no_grad():
        for parameter in rssm.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return rssm


def make_state(rssm: RSSM, *leading: int) -> State:
    config = rssm.config
    return State(deter=torch.randn(*leading, config.deter), stoch=torch.rand(*leading, config.stoch * config.classes))


def test_features_put_deter_first():
    state = State(deter=torch.zeros(2, 3), stoch=torch.ones(2, 4))
    assert state.features.tolist() == [[0, 0, 0, 1, 1, 1, 1]] * 2
    assert (state.map(lambda leaf: leaf + 1).features == torch.tensor([1, 1, 1, 2, 2, 2, 2])).all()


def test_the_initial_state_is_zero(rssm: RSSM):
    state = rssm.initial(5, torch.device("cpu"))
    assert state.deter.shape == (5, 32)
    assert state.stoch.shape == (5, 16)
    assert (state.features == 0).all()


def step_as_the_reference_writes_it(rssm: RSSM, state: State, action: Tensor) -> Tensor:
    """The embeddings repeated for every block; the gates of every block side by side (eq. 3)."""
    blocks = rssm.config.blocks
    embedding = torch.cat([rssm.deter_in(state.deter), rssm.stoch_in(state.stoch), rssm.action_in(action)], -1)
    repeated = embedding[:, None].expand(-1, blocks, -1)
    x = torch.cat([state.deter.unflatten(-1, (blocks, -1)), repeated], -1).flatten(-2)
    x = rssm.gates(rssm.hidden_norm(rssm.hidden(x)))
    reset, candidate, update = (part.flatten(-2) for part in x.unflatten(-1, (blocks, 3, -1)).unbind(-2))
    candidate = torch.tanh(torch.sigmoid(reset) * candidate)
    update = torch.sigmoid(update - 1)
    return update * candidate + (1 - update) * state.deter


def test_a_step_is_the_references(rssm: RSSM):
    state, action = make_state(rssm, 7), torch.rand(7, 2)
    ours = rssm.step(state, action, rssm.step_weights())
    theirs = step_as_the_reference_writes_it(rssm, state, action)
    assert torch.allclose(ours, theirs, atol=1e-5)
    names = [name for name, _ in rssm.named_parameters() if not name.startswith(("prior", "post"))]
    grads = [
        torch.autograd.grad(output.square().sum(), [rssm.get_parameter(name) for name in names])
        for output in (ours, theirs)
    ]
    for name, own, other in zip(names, *grads, strict=True):
        assert torch.allclose(own, other, atol=1e-5 * float(other.abs().max()) + 1e-6), name


@pytest.mark.parametrize("blocks", [1, 4])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_many_states_step_as_each_would_alone(blocks: int, precision: str):
    torch.manual_seed(0)
    rssm = RSSM(make_config(blocks=blocks), TOKENS)
    state, action = make_state(rssm, MIN_ROWS), 3 * torch.rand(MIN_ROWS, 2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        together = rssm.transition(MIN_ROWS)
        assert isinstance(together, BlockwiseTransition)
        deter = together(state, action)
        expected = rssm.step(state, action, rssm.step_weights())
    assert deter.dtype == torch.float32
    assert torch.allclose(deter, expected, atol=1e-5 if precision == "fp32" else 2e-2)


def test_a_transition_with_gradient_or_few_states_is_the_differentiable_one(rssm: RSSM):
    with torch.no_grad():
        assert not isinstance(rssm.transition(MIN_ROWS - 1), BlockwiseTransition)
    transition = rssm.transition(MIN_ROWS)
    transition(make_state(rssm, MIN_ROWS), torch.rand(MIN_ROWS, 2)).sum().backward()
    assert rssm.gates.weight.grad is not None


def test_actions_beyond_one_count_as_one(rssm: RSSM):
    inside, beyond = torch.tensor([[1.0, -0.5], [-1.0, 0.0]]), torch.tensor([[7.0, -0.5], [-1e6, 0.0]])
    assert torch.equal(rssm.embed_action(inside), rssm.embed_action(beyond))
    assert not torch.equal(rssm.embed_action(inside[:1]), rssm.embed_action(inside[:1] * 0.5))


def test_probabilities_have_the_uniform_mix(rssm: RSSM):
    logits = torch.zeros(3, 16)
    logits[:, 0] = 1e4
    probs = rssm.probs(logits)
    assert probs.shape == (3, 4, 4)
    assert torch.allclose(probs[0, 0], torch.tensor([0.9925, 0.0025, 0.0025, 0.0025]))
    assert torch.allclose(probs[0, 1], torch.tensor([0.25] * 4))


def test_samples(rssm: RSSM):
    logits = torch.randn(2, 3, 16)
    sample = rssm.sample(logits, None)
    assert sample.shape == (2, 3, 16)
    assert torch.equal(sample.unflatten(-1, (4, 4)).argmax(-1), logits.unflatten(-1, (4, 4)).argmax(-1))
    last = rssm.sample(logits, torch.full((2, 3, 4), 0.9999999))
    assert (last.unflatten(-1, (4, 4)).argmax(-1) == 3).all()


def test_posterior_sees_state_and_observation_and_prior_the_state(rssm: RSSM):
    deter, tokens = torch.randn(3, 32, requires_grad=True), torch.randn(3, TOKENS, requires_grad=True)
    rssm.posterior(deter, tokens).square().sum().backward()
    assert (deter.grad != 0).all()
    assert (tokens.grad != 0).all()
    assert rssm.prior(deter).shape == (3, 16)


def test_observe_in_pieces_is_observe_at_once(rssm: RSSM):
    """The state before row 0 carries all there is to know."""
    torch.manual_seed(1)
    tokens, actions = torch.randn(6, 2, TOKENS), torch.rand(6, 2, 2)
    is_first = torch.zeros(6, 2, dtype=torch.bool)
    uniform = torch.rand(6, 2, 4)
    start = make_state(rssm, 2)
    whole = rssm.observe(tokens, actions, is_first, uniform, start)
    first = rssm.observe(tokens[:4], actions[:4], is_first[:4], uniform[:4], start)
    middle = State(deter=first.deter[-1], stoch=first.stoch[-1])
    second = rssm.observe(tokens[4:], actions[4:], is_first[4:], uniform[4:], middle)
    for one, (left, right) in zip(whole, zip(first, second, strict=True), strict=True):
        assert torch.allclose(one, torch.cat([left, right]), atol=1e-6)
