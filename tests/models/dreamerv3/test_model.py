from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.dreamerv3.tiny_dreamer import make_batch, make_config, make_model, make_obs
from worldline.create import load_model
from worldline.errors import DataError
from worldline.models.base import num_trained
from worldline.models.dreamerv3 import SIZES, DreamerV3, DreamerV3Config
from worldline.models.dreamerv3.rows import align

CASES: dict[str, dict[str, Any]] = {
    "vector": {},
    "image": {"obs_shape": (16, 16, 1)},
    "odd image": {"obs_shape": (20, 36, 3)},
    "large image": {"obs_shape": (84, 84, 1)},
    "channels first": {"obs_shape": (3, 40, 64)},
    "both": {"obs_shape": {"state": (3,), "image": (12, 12, 3)}},
    "multi-discrete": {"action_dim": 5, "action_type": "multi_discrete", "action_sizes": (2, 3)},
    "continuous": {"action_dim": 3, "action_type": "continuous"},
}
EVERY_CASE = pytest.mark.parametrize("settings", CASES.values(), ids=CASES.keys())


def dense(inputs: int, outputs: int) -> int:
    """A linear layer with its bias, and a norm's scale."""
    return inputs * outputs + 2 * outputs


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def block_linear(inputs: int, outputs: int, blocks: int) -> int:
    return inputs * outputs // blocks + outputs


def count_by_formula(*, deter: int, hidden: int, classes: int, units: int, depth: int, image: bool) -> int:
    """What the reference has for a 4-vector (and a 64 x 64 x 3 image) and 2 actions, without its slow critic."""
    stoch, blocks, bins, actions, vector = 32, 8, 255, 2, 4
    latent = stoch * classes
    features = deter + latent
    trunk = dense(features, units) + 2 * dense(units, units)
    depths = [2 * depth, 3 * depth, 4 * depth, 4 * depth]
    space = 4 * 4 * depths[-1]
    tokens = units + (space if image else 0)
    encoder = dense(vector, units) + 2 * dense(units, units)
    decoder = trunk + linear(units, vector)
    if image:
        encoder += sum(dense(25 * i, o) for i, o in zip([3, *depths[:-1]], depths, strict=True))
        decoder += block_linear(deter, space, blocks) + dense(latent, 2 * units) + linear(2 * units, space) + depths[-1]
        decoder += sum(dense(25 * i, o) for i, o in zip(depths[::-1][:-1], depths[::-1][1:], strict=True))
        decoder += linear(25 * depths[0], 3)
    dynamics = dense(deter, hidden) + dense(latent, hidden) + dense(actions, hidden)
    dynamics += (
        block_linear(deter + blocks * 3 * hidden, deter, blocks) + deter + block_linear(deter, 3 * deter, blocks)
    )
    prior = dense(deter, hidden) + dense(hidden, hidden) + linear(hidden, latent)
    posterior = dense(deter + tokens, hidden) + linear(hidden, latent)
    reward, continuation = (dense(features, units) + linear(units, size) for size in (bins, 1))
    policy, value = (trunk + linear(units, size) for size in (actions, bins))
    return encoder + decoder + dynamics + prior + posterior + reward + continuation + policy + value


@pytest.mark.parametrize("image", [False, True], ids=["vector", "both"])
@pytest.mark.parametrize("size", SIZES)
def test_parameter_counts(size: str, image: bool):
    shape = {"state": (4,), "image": (64, 64, 3)} if image else (4,)
    with torch.device("meta"):
        model = DreamerV3(DreamerV3Config(obs_shape=shape, action_dim=2, **SIZES[size]))
    assert num_trained(model) == count_by_formula(**SIZES[size], image=image)
    if size == "size12m" and not image:
        assert num_trained(model) == 9_724_165  # what the reference reports
    slow = sum(parameter.numel() for parameter in model.slow_value.parameters())
    assert slow == sum(parameter.numel() for parameter in model.value.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == num_trained(model) + slow


def test_heads_begin_where_the_reference_has_them():
    torch.manual_seed(0)
    model = DreamerV3(make_config())
    features = torch.randn(5, 48)
    assert (model.read(model.reward, features) == 0).all()
    assert (model.read(model.value, features) == 0).all()
    assert torch.equal(model.slow_value.out.weight, model.value.out.weight)


@EVERY_CASE
def test_loss_and_its_terms(settings: dict[str, Any]):
    model = make_model(**settings)
    batch = make_batch(model.config)
    result = model.compute_loss(batch)
    terms = {*model.config.obs_shapes, "dyn", "rep", "rew", "con", "policy", "value", "repval"}
    assert terms < result.keys()
    assert all(value.ndim == 0 and value.isfinite() for value in result.values())
    assert [name for name, value in result.items() if value.requires_grad] == ["loss"]
    total = sum(model.loss_scales[name] * result[name] for name in terms)
    assert torch.allclose(result["loss"].detach(), total)


def test_every_coefficient_reaches_its_term():
    names = {
        "obs": "reconstruction_scale",
        "dyn": "dyn_scale",
        "rep": "rep_scale",
        "rew": "reward_scale",
        "con": "continue_scale",
        "policy": "policy_scale",
        "value": "value_scale",
        "repval": "replay_value_scale",
    }
    plain = make_model(free_nats=0.0)
    batch = make_batch(plain.config)
    assert plain.loss_scales.keys() == names.keys()
    torch.manual_seed(0)
    before = plain.compute_loss(batch)
    for name, setting in names.items():
        model = make_model(free_nats=0.0, **{setting: 10.0})
        torch.manual_seed(0)
        after = model.compute_loss(batch)
        expected = before["loss"] + (10 - plain.loss_scales[name]) * before[name]
        assert torch.allclose(after["loss"], expected, rtol=1e-4), name
        assert before[name] != 0, name


def test_free_nats_stop_the_gradient_of_small_divergences():
    model = make_model(free_nats=1e6)
    result = model.compute_loss(make_batch(model.config))
    assert result["dyn"] == result["rep"] == 1e6
    result["loss"].backward()
    assert model.rssm.prior_out.weight.grad.abs().sum() == 0  # nothing but the divergence trains the prior


def test_the_two_divergences_train_their_own_side():
    for scales, trained in (((1.0, 0.0), "prior"), ((0.0, 1.0), "post")):
        model = make_model(
            free_nats=0.0, reconstruction_scale=0, reward_scale=0, continue_scale=0, replay_value_scale=0,
            dyn_scale=scales[0], rep_scale=scales[1],
        )  # fmt: skip
        model.compute_loss(make_batch(model.config))["loss"].backward()
        for part in ("prior", "post"):
            grad = model.rssm.get_parameter(f"{part}_out.bias").grad.abs().sum()
            # The divergence of the prior reaches the posterior of earlier rows, through the recurrence.
            assert (grad > 0) if part == trained or part == "post" else (grad == 0)


def test_the_slow_critic_follows_the_critic():
    model = make_model(slow_value_rate=0.25)
    before = [parameter.clone() for parameter in model.slow_value.parameters()]
    with torch.no_grad():
        for parameter in model.value.parameters():
            parameter.add_(1.0)
    model.after_update()
    for old, slow, fast in zip(before, model.slow_value.parameters(), model.value.parameters(), strict=True):
        assert torch.allclose(slow, 0.75 * old + 0.25 * fast, atol=1e-6)


def test_the_optimiser_gets_all_but_the_slow_critic():
    model = make_model(agc=0.2, beta1=0.8, beta2=0.9, eps=1e-10)
    (group,) = model.param_groups()
    slow = {id(parameter) for parameter in model.slow_value.parameters()}
    assert {id(p) for p in group.params} == {id(p) for p in model.parameters()} - slow
    assert (group.algorithm, group.betas, group.eps, group.agc) == ("laprop", (0.8, 0.9), 1e-10, 0.2)


@EVERY_CASE
def test_save_and_load(settings: dict[str, Any], tmp_path: Path):
    model = make_model(**settings)
    model.compute_loss(make_batch(model.config))  # moves the range of returns, which is saved as well
    assert model.return_high > model.return_low
    model.save_pretrained(tmp_path / "a")
    loaded = load_model(tmp_path / "a")
    assert loaded.config == model.config
    assert not loaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert torch.equal(loaded.bins, model.bins)
    loaded.save_pretrained(tmp_path / "b")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@EVERY_CASE
def test_observe_imagine_decode(settings: dict[str, Any]):
    model = make_model(**settings).eval()
    batch = make_batch(model.config, 4, 5)
    states = model.observe(batch)
    assert states.deter.shape == (4, 5, 32)
    assert states.stoch.shape == (4, 5, 16)
    future = model.imagine(states.map(lambda leaf: leaf[:, 2]), batch.actions[:, 2:].transpose(0, 1))
    assert future.rewards.shape == future.continues.shape == (3, 4)
    assert future.states.deter.shape == (3, 4, 32)
    assert future.continues.min() >= 0
    assert future.continues.max() <= 1
    decoded = model.decode(future.states)
    assert isinstance(decoded, dict) == isinstance(model.config.obs_shape, dict)
    for name, value in (decoded if isinstance(decoded, dict) else {"obs": decoded}).items():
        assert value.shape == (3, 4, *model.config.obs_shapes[name])
    assert model.encode(first_obs(batch.obs)).deter.shape == (4, 32)


def first_obs(obs: Any) -> Any:
    return {name: value[:, 0] for name, value in obs.items()} if isinstance(obs, dict) else obs[:, 0]


def test_encode_is_the_first_row_of_observe():
    model = make_model().eval()
    batch = make_batch(model.config)
    encoded, observed = model.encode(batch.obs[:, 0]), model.observe(batch)
    assert torch.allclose(encoded.deter, observed.deter[:, 0], atol=1e-6)
    assert torch.equal(encoded.stoch, observed.stoch[:, 0].detach().round())


@pytest.mark.parametrize("blocks", [1, 4])
def test_one_environment_is_imagined_as_it_is_among_others(blocks: int):
    """With gradients: a product of one row, or of one block, may be a view that is not to be changed in place."""
    model = make_model(blocks=blocks).eval()
    batch = make_batch(model.config)
    actions = batch.actions.transpose(0, 1)
    alone = model.imagine(model.encode(batch.obs[:1, 0]), actions[:, :1])
    together = model.imagine(model.encode(batch.obs[:, 0]), actions)
    assert torch.allclose(alone.rewards[:, 0], together.rewards[:, 0], atol=1e-5)
    alone.rewards.sum().backward()
    assert model.rssm.gates.weight.grad is not None


def test_imagined_steps_follow_each_other():
    model = make_model().eval()
    batch = make_batch(model.config)
    start, actions = model.encode(batch.obs[:, 0]), batch.actions.transpose(0, 1)
    whole = model.imagine(start, actions)
    first = model.imagine(start, actions[:2])
    second = model.imagine(first.states.map(lambda leaf: leaf[-1]), actions[2:])
    assert torch.allclose(whole.rewards, torch.cat([first.rewards, second.rewards]), atol=1e-5)
    changed = actions.clone()
    changed[3] = 1 - changed[3]
    other = model.imagine(start, changed)
    assert torch.equal(other.rewards[:3], whole.rewards[:3])
    assert not torch.equal(other.rewards[3:], whole.rewards[3:])


def test_evaluation_takes_modes_and_training_samples():
    model = make_model().eval()
    batch = make_batch(model.config)
    start = model.encode(batch.obs[:, 0])
    actions = batch.actions.transpose(0, 1)
    assert torch.equal(model.observe(batch).stoch, model.observe(batch).stoch)
    assert torch.equal(model.imagine(start, actions).states.stoch, model.imagine(start, actions).states.stoch)
    model.train()
    assert not torch.equal(model.observe(batch).stoch, model.observe(batch).stoch)
    assert not torch.equal(model.imagine(start, actions).states.stoch, model.imagine(start, actions).states.stoch)


def test_continues_are_without_the_discount():
    model = make_model(discount_horizon=4).eval()
    with torch.no_grad():
        model.continuation.out.weight.zero_()
        model.continuation.out.bias.fill_(torch.logit(torch.tensor(0.6)))
    state = model.encode(torch.zeros(1, 3))
    assert model.imagine(state, torch.zeros(1, 1, 2)).continues.item() == pytest.approx(0.8)
    with torch.no_grad():
        model.continuation.out.bias.fill_(10.0)
    assert model.imagine(state, torch.zeros(1, 1, 2)).continues.item() == 1.0


@pytest.mark.parametrize("shape", [(4, 2), (4, 5, 2), (3, 4, 3), (3, 1, 2)])
def test_actions_of_another_shape_are_refused(shape: tuple[int, ...]):
    model = make_model()
    state = model.encode(torch.zeros(4, 3))
    with pytest.raises(
        DataError, match=r"actions \[H, B, A\] = \[H, 4, 2\], time first; got .*actions.transpose\(0, 1\)"
    ):
        model.imagine(state, torch.zeros(shape))


@EVERY_CASE
def test_act(settings: dict[str, Any]):
    model = make_model(**settings).eval()
    config = model.config
    generator = torch.Generator().manual_seed(0)
    state = None
    for _ in range(3):
        obs = make_obs(config, 4, generator=generator)
        action, state = model.act(obs, state)
        assert action.shape == (4, config.action_dim)
        assert not action.requires_grad
        if config.choices:
            assert ((action == 0) | (action == 1)).all()
            assert (torch.stack([part.sum(-1) for part in action.split(config.choices, -1)]) == 1).all()
        else:
            assert action.abs().max() <= 1
        assert torch.equal(state.action, action)


def test_acting_remembers():
    model = make_model().eval()
    obs = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(0))
    states: list[Any] = [None]
    for step in obs:
        states.append(model.act(step, states[-1], deterministic=True)[1])
    fresh = model.act(obs[2], deterministic=True)[1]
    assert not torch.allclose(states[3].latent.deter, fresh.latent.deter)
    # The same as observing the whole sequence with those actions.
    actions = torch.stack([state.action for state in states[1:]], 1)
    batch = dataclasses.replace(make_batch(model.config, 4, 3), obs=obs.transpose(0, 1), actions=actions)
    observed = model.observe(batch)
    for row, state in enumerate(states[1:]):
        assert torch.allclose(state.latent.deter, observed.deter[:, row], atol=1e-5)


def test_what_was_before_a_new_episode_is_forgotten():
    model = make_model().eval()
    obs = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    _, state = model.act(obs[0])
    is_first = torch.tensor([False, True, False, True])
    after = model.act(obs[1], state, is_first=is_first, deterministic=True)[1]
    fresh = model.act(obs[1], deterministic=True)[1]
    remembering = model.act(obs[1], state, deterministic=True)[1]
    assert torch.equal(after.latent.deter[is_first], fresh.latent.deter[is_first])
    assert torch.equal(after.action[is_first], fresh.action[is_first])
    assert torch.equal(after.latent.deter[~is_first], remembering.latent.deter[~is_first])
    assert not torch.allclose(remembering.latent.deter[is_first], fresh.latent.deter[is_first])
    assert torch.equal(model.act(obs[1], is_first=is_first, deterministic=True)[1].latent.deter, fresh.latent.deter)


def test_acting_takes_the_likeliest_action_or_a_sample():
    model = make_model().eval()
    obs = torch.zeros(200, 3)
    deterministic = [model.act(obs, deterministic=True)[0] for _ in range(2)]
    assert torch.equal(*deterministic)
    assert len(deterministic[0].unique(dim=0)) == 1
    torch.manual_seed(0)
    assert len(model.act(obs)[0].unique(dim=0)) == 2


def test_acting_refuses_another_observation():
    with pytest.raises(DataError, match=r"'obs' must be \[B, 3\]; got \[4, 2\]"):
        make_model().act(torch.zeros(4, 2))


def test_the_end_of_an_episode_without_its_observation_is_encoded_as_nothing():
    model = make_model().eval()
    batch = make_batch(model.config, 2, 4)
    batch.step_mask[0, 3] = batch.obs_mask[0, 3] = False
    rows = align(batch, model.config)
    tokens = model.observe_rows(rows, deterministic=True).tokens
    assert (tokens[3, 0] == 0).all()
    assert (tokens[2, 0] != 0).any()
    assert (tokens[3, 1] != 0).any()


def gradients(model: DreamerV3, batch: Any) -> tuple[dict[str, Tensor], list[Tensor]]:
    model.zero_grad()
    torch.manual_seed(0)
    result = model.compute_loss(batch)
    result["loss"].backward()
    return {k: v.detach() for k, v in result.items()}, [p.grad.clone() for p in model.parameters() if p.requires_grad]


def test_low_precision_is_roughly_equal():
    model = make_model(obs_shape={"state": (3,), "image": (12, 12, 3)})
    batch = make_batch(model.config)
    rows = align(batch, model.config)
    expected = model.loss_of_rows(rows, deterministic=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = model.loss_of_rows(rows, deterministic=True)
    result["loss"].backward()
    assert result["loss"].dtype == torch.float32
    # Not all terms: one mode of a latent that rounding changes is enough to change them.
    assert torch.allclose(result["image"], expected["image"], rtol=0.05)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_noise_comes_from_the_seed_alone():
    model = make_model()
    batch = make_batch(model.config)
    (first, grads), range_after = gradients(model, batch), model.return_high.clone()
    model.return_low.zero_()
    model.return_high.zero_()
    second, other_grads = gradients(model, batch)
    assert torch.equal(model.return_high, range_after)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(a, b) for a, b in zip(grads, other_grads, strict=True))
