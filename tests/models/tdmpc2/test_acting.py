from __future__ import annotations

from typing import Any

import pytest
import torch

from models.tdmpc2.tiny_tdmpc2 import make_model
from worldline.errors import ConfigError
from worldline.models.tdmpc2 import TDMPC2, ActorState
from worldline.models.tdmpc2.acting import propose
from worldline.planning import every_sequence, sequence_values

OBS = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("plans", [True, False])
@pytest.mark.parametrize("action_type", ["continuous", "discrete"])
def test_actions_are_what_environments_take(action_type: str, plans: bool):
    model = make_model(action_type=action_type, plans=plans).train()
    state = None
    for deterministic in (False, True, False):
        action, state = model.act(OBS, state, deterministic=deterministic)
        assert action.shape == (3, 2)
        assert action.abs().max() <= 1
        if action_type == "discrete":
            assert torch.equal(action.sort(-1).values, torch.tensor([[0.0, 1.0]]).expand(3, 2))
    assert model.training
    assert model.net.q.training
    assert not model.net.target_q.training


def test_planning_chooses_what_is_rewarded():
    """Reward and value depend on the action by weights of ours: the best is known."""
    model = reward_model(make_model(plan_samples=256, plan_elites=32, plan_iterations=6, episodic=False))
    torch.manual_seed(0)
    action, _ = model.act(OBS, deterministic=True)
    assert (action[:, 0] > 0.8).all()
    state = None
    for _ in range(3):
        action, state = model.act(OBS, state)
    assert (action[:, 0] > 0.8).all()
    assert (state.plan[0, :, 0] > 0.8).all()


@pytest.mark.parametrize("samples", [8, 7])  # for all sequences of 3 steps, and for fewer
def test_planning_chooses_the_better_of_two(samples: int):
    model = reward_model(make_model(action_type="discrete", episodic=False, horizon=3, plan_samples=samples))
    assert model.act(OBS, deterministic=True)[0].tolist() == [[1, 0]] * 3


def test_planning_records_no_gradients():
    model = make_model(episodic=False, plan_samples=16, plan_elites=4)
    action, memory = model.plan(model.encode(OBS))
    assert not action.requires_grad
    assert not memory.plan.requires_grad


def test_the_best_of_all_sequences_of_choices_is_taken():
    model = make_model(action_type="discrete", action_dim=3, horizon=2, plan_samples=9).eval()
    state = model.encode(OBS)
    action, memory = model.plan(state, deterministic=True)
    sequences = every_sequence(2, 3)
    values = sequence_values(model, state, sequences[:, None].expand(2, 3, 9, 3), deterministic=True)  # [N, S]
    assert torch.equal(action, sequences[0, values.argmax(-1)])
    weights = torch.softmax(model.config.plan_temperature * values, -1)
    torch.testing.assert_close(memory.plan, torch.einsum("ns,hsa->hna", weights, sequences))


def reward_model(model: TDMPC2) -> TDMPC2:
    """Let the reward grow with action 0 alone, by a hidden feature that is mish of its norm."""
    with torch.no_grad():
        for layer in list(model.net.reward.layers)[:2]:
            layer.weight.zero_()
            layer.shift.zero_()
        first, second, last = model.net.reward.layers
        first.bias.zero_()
        first.weight[0, 16] = 1.0
        first.bias[1] = 1.0
        second.bias.zero_()
        second.weight[0, 0] = 1.0
        second.bias[1] = 1.0
        last.weight.zero_()
        last.bias.zero_()
        last.weight[60, 0] = 3.0  # a bin above zero
        last.weight[40, 0] = -3.0
        for member in model.net.q.members:
            member.layers[-1].weight.zero_()
            member.layers[-1].bias.zero_()
    return model


def test_a_deterministic_plan_does_not_depend_on_the_others():
    model = make_model().eval()
    both, _ = model.act(OBS, deterministic=True)
    torch.manual_seed(1)
    again, _ = model.act(OBS, deterministic=True)
    assert torch.equal(both, again)
    alone, _ = model.act(OBS[1:2], deterministic=True)
    torch.testing.assert_close(alone, both[1:2], rtol=1e-4, atol=1e-4)


def test_the_last_plan_counts_but_where_an_episode_begins():
    model = make_model(plan_iterations=1, plan_samples=8, plan_elites=8, plan_policy_samples=0).eval()
    plan = torch.full((3, 3, 2), 1e3)
    for is_first, at_bound in ((None, [1, 1, 1]), (torch.tensor([False, True, False]), [1, 0, 1])):
        _, state = model.act(OBS, ActorState(plan=plan), is_first=is_first)
        warm = (state.plan[0] > 0.999).all(-1).long().tolist()  # about 1,000, cut to 1
        assert warm == at_bound
    assert not (model.act(OBS)[1].plan[0] > 0.999).all(-1).any()


@pytest.mark.parametrize(("action_dim", "iterations"), [(2, 2), (20, 4)])
def test_many_actions_take_two_iterations_more(action_dim: int, iterations: int, monkeypatch: pytest.MonkeyPatch):
    model = make_model(action_dim=action_dim).eval()
    calls: list[Any] = []
    imagine = model.imagine
    monkeypatch.setattr(model, "imagine", lambda *given: calls.append(given) or imagine(*given))
    model.act(OBS)
    assert len(calls) == iterations
    assert calls[0][1].shape == (3, 3 * 24, action_dim)


def test_proposals_follow_the_policy():
    model = make_model().eval()
    state = model.encode(OBS)
    torch.manual_seed(0)
    sequences = propose(model, state, None)
    assert sequences.shape == (3, 3, 4, 2)
    shared = propose(model, state, torch.Generator().manual_seed(0))
    alone = propose(model, state.map(lambda leaf: leaf[1:2]), torch.Generator().manual_seed(0))
    torch.testing.assert_close(shared[:, 1:2], alone)


@pytest.mark.parametrize("action_type", ["continuous", "discrete"])
def test_actions_that_a_task_has_not_are_never_taken(action_type: str):
    model = make_model(action_type=action_type, action_dim=4, task_action_dims=(2, 4), plan_floor=0.9).eval()
    state = None
    for deterministic in (False, False, True):
        action, state = model.act(OBS[:2], state, deterministic=deterministic, task=torch.tensor([0, 1]))
        assert not action[0, 2:].any()
    model = make_model(action_type=action_type, action_dim=4, task_action_dims=(2, 4), plans=False).eval()
    assert not model.act(OBS[:2], task=torch.tensor([0, 1]))[0][0, 2:].any()


def test_the_policy_of_a_task_is_told_its_task():
    model = make_model(action_dim=4, task_action_dims=(2, 4)).eval()
    for task in (0, 1):
        expected, _ = model.act(OBS, deterministic=True, task=torch.full((3,), task))
        action, state = model.for_task(task).act(OBS, deterministic=True)
        assert torch.equal(action, expected)
        assert model.for_task(task).act(OBS, state)[0].shape == (3, 4)
    with pytest.raises(ConfigError, match="no task 2"):
        model.for_task(2)


def test_the_policy_of_a_task_acts_on_dicts():
    model = make_model(obs_shape={"a": (2,), "b": (1,)}, task_action_dims=(1, 2)).eval()
    action, _ = model.for_task(0).act({"a": OBS[:, :2], "b": OBS[:, 2:]})
    assert action.shape == (3, 2)
    assert not action[:, 1].any()
