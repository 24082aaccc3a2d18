from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from models.tdmpc2.tiny_tdmpc2 import make_batch, make_model
from worldline.models.tdmpc2.losses import loss_elements, policy_loss, rollout, td_targets
from worldline.models.tdmpc2.segments import cut


def test_rollout_follows_the_dynamics():
    model = make_model().eval()
    batch = make_batch(model.config)
    states = rollout(model.net, cut(batch, model.config))
    start = model.encode(batch.obs[:, 0])
    future = model.imagine(start, batch.actions[:, :3].transpose(0, 1))
    torch.testing.assert_close(states, torch.cat([start.latent[None], future.states.latent]))


def test_targets_by_hand():
    model = make_model(num_q=2).eval()
    batch = make_batch(model.config)
    batch.terminations[0, 1] = True
    segments = cut(batch, model.config)
    latents = torch.rand(3, 4, 16)
    net = model.net
    action = torch.tanh(net.policy(latents).chunk(2, -1)[0])
    values = net.read(net.target_q(torch.cat([latents, action], -1)))
    expected = segments.rewards + 0.99 * torch.minimum(values[0], values[1]) * (~segments.terminations)
    torch.testing.assert_close(td_targets(net, segments, latents, deterministic=True), expected)
    assert td_targets(net, segments, latents, deterministic=True)[1, 0] == segments.rewards[1, 0]


def test_terms_by_hand():
    """Each step weighs rho times the one before; the mean is over steps, windows and, of consistency, dimensions."""
    model = make_model(num_q=2).eval()
    batch = make_batch(model.config)
    segments = cut(batch, model.config)
    net = model.net
    result = model.loss_of_segments(segments, deterministic=True)
    states = rollout(net, segments)
    following = net.latents({"obs": segments.obs["obs"][1:].flatten(0, 1)}, None).view(3, 4, 16)
    steps = [0.5**t * F.mse_loss(states[t + 1], following[t]) for t in range(3)]
    torch.testing.assert_close(result["consistency"], sum(steps).detach() / 3)
    inputs = torch.cat([states[:-1], segments.actions], -1)
    codes = (1 - (net.coded(segments.rewards)[..., None] - net.bins).abs() / 0.2).clamp(min=0)
    errors = -(codes * net.reward(inputs).log_softmax(-1)).sum(-1).mean(-1)
    torch.testing.assert_close(result["reward"], (errors * torch.tensor([1, 0.5, 0.25])).mean().detach())
    ends = F.softplus(net.termination(states[1:])).mean()  # no step ended its episode
    torch.testing.assert_close(result["termination"], ends.detach())
    action = torch.tanh(net.policy(states).chunk(2, -1)[0])
    values = net.read(net.q(torch.cat([states, action], -1))).mean(0)
    entropy = net.policy.entropy(net.policy(states), None)
    weights = torch.tensor([[1], [0.5], [0.25], [0.125]])
    torch.testing.assert_close(result["policy"], -((values + 1e-4 * entropy) * weights).mean().detach())
    total = 20 * result["consistency"] + 0.1 * (result["reward"] + result["value"]) + result["termination"]
    torch.testing.assert_close(result["loss"].detach(), total + result["policy"])


def test_the_policy_learns_from_its_own_loss_alone():
    model = make_model().train()
    segments = cut(make_batch(model.config), model.config)
    elements, _ = loss_elements(model, segments, deterministic=False)
    elements["policy"][0].mean().backward()
    touched = {name.split(".")[1] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert touched == {"policy"}
    model.zero_grad()
    elements, _ = loss_elements(model, segments, deterministic=False)
    sum(value.mean() for name, (value, _) in elements.items() if name != "policy").backward()
    touched = {name.split(".")[1] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert touched == {"encoder", "dynamics", "reward", "termination", "q"}


@pytest.mark.parametrize("action_type", ["continuous", "discrete"])
def test_the_policy_moves_to_what_is_worth_more(action_type: str):
    """A step against the gradient raises the value of the policy's actions."""
    model = make_model(action_type=action_type, entropy_scale=0.0, discrete_entropy_scale=0.0).eval()
    segments = cut(make_batch(model.config), model.config)
    latents = torch.rand(4, 4, 16)
    loss, before = policy_loss(model, latents, segments, deterministic=True)
    loss.mean().backward()
    with torch.no_grad():
        for parameter in model.net.policy.parameters():
            parameter -= 0.1 * parameter.grad
    _, after = policy_loss(model, latents, segments, deterministic=True)
    assert after["policy_value"] > before["policy_value"]


def test_the_value_of_choices_is_the_mean_over_all():
    model = make_model(action_type="discrete", action_dim=3, num_q=2, discrete_entropy_scale=0.5).eval()
    segments = cut(make_batch(model.config), model.config)
    latents = torch.rand(4, 4, 16)
    loss, _ = policy_loss(model, latents, segments, deterministic=False)
    probs = model.net.policy(latents).softmax(-1)
    expected = torch.zeros(4, 4)
    for choice in range(3):
        one_hot = torch.eye(3)[choice].expand(4, 4, 3)
        expected += probs[..., choice] * model.net.read(model.net.q(torch.cat([latents, one_hot], -1))).mean(0)
    entropy = -(probs * probs.log()).sum(-1)
    torch.testing.assert_close(loss, -expected - 0.5 * entropy)


def test_the_range_of_values_is_that_of_the_first_states():
    model = make_model(scale_rate=0.5).train()
    with torch.no_grad():
        for member in model.net.q.members:
            member.layers[-1].weight.mul_(300)
    segments = cut(make_batch(model.config, 64), model.config)
    segments = dataclasses.replace(segments, state_mask=segments.state_mask.clone())
    segments.state_mask[0, 32:] = False
    latents = torch.rand(4, 64, 16)
    latents[:, 32:] *= 100
    torch.manual_seed(0)
    loss, metrics = policy_loss(model, latents, segments, deterministic=True, pair=[0, 1])
    model.eval()
    values = -(loss * metrics["value_range"])[0, :32].detach()  # but for the entropy, a ten-thousandth
    low, high = torch.quantile(values, torch.tensor([0.05, 0.95]))
    assert metrics["value_range"].item() == pytest.approx(0.5 + 0.5 * max(1.0, (high - low).item()), rel=0.05)
    assert metrics["value_range"] > 1
    before = model.value_range.clone()
    policy_loss(model, latents, segments, deterministic=True)
    assert torch.equal(model.value_range, before)  # evaluation changes nothing


def test_what_is_lost_at_the_end_has_no_target():
    """After a time limit whose final observation nobody saw, the last step's value is unknown, its reward is not."""
    model = make_model().eval()
    batch = make_batch(model.config, 2)
    batch.step_mask[:, 3:] = False
    batch.obs_mask[:, 3:] = False
    elements, _ = loss_elements(model, cut(batch, model.config), deterministic=True)
    assert elements["reward"][1].sum(0).tolist() == [3, 3]
    assert elements["value"][1].sum(0).tolist() == [2, 2]
    batch.terminations[:, 2] = True
    elements, _ = loss_elements(model, cut(batch, model.config), deterministic=True)
    assert elements["value"][1].sum(0).tolist() == [3, 3]
