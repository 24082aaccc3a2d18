from __future__ import annotations

import itertools

import pytest
import torch

from models.tdmpc2.tiny_tdmpc2 import make_batch, make_model
from worldline.errors import ConfigError, DataError
from worldline.training import Trainer, TrainingConfig
from worldline.training.optim import build_optimizer


@pytest.mark.parametrize("action_type", ["continuous", "discrete"])
def test_zero_rewards_leave_values_at_zero(action_type: str):
    model = make_model(moved=False, action_type=action_type).train()
    batches = [make_batch(model.config, 16, seed=seed) for seed in range(10)]
    for batch in batches:
        batch.rewards.zero_()
    settings = TrainingConfig(total_steps=600, batch_size=16, sequence_length=4, seed=0, device="cpu")
    Trainer(model, settings).train([batch for batch, _ in zip(itertools.cycle(batches), range(600), strict=False)])
    with torch.no_grad():
        latents = model.eval().observe(batches[0]).latent
        inputs = model.net.joined(latents, batches[0].actions, task=None)
        for ensemble in (model.net.q, model.net.target_q):
            assert model.net.read(ensemble(inputs)).abs().max() < 0.01


def test_the_groups_of_parameters():
    model = make_model(task_action_dims=(1, 2))
    groups = {group.name: group for group in model.param_groups()}
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    grouped = [id(p) for group in groups.values() for p in group.params]
    assert len(grouped) == len(set(grouped)) == len(trained)
    assert set(grouped) == trained
    assert {name: group.lr_scale for name, group in groups.items()} == {
        "encoder": 0.3,
        "world_model": 1.0,
        "policy": 1.0,
    }
    assert (groups["policy"].eps, groups["world_model"].eps) == (1e-5, 1e-8)
    assert any(p is model.net.task_embedding for p in groups["world_model"].params)


def test_encoder_and_world_model_are_clipped_together_and_the_policy_alone():
    model = make_model(max_grad_norm=2.0)
    optimizer = build_optimizer(model, model.param_groups(), weight_decay=0.0, grad_clip=0.0)
    optimizer.zero_grad()
    sizes = {"encoder": 3.0, "world_model": 4.0, "policy": 8.0}
    for group in model.param_groups():
        group.params[0].grad.view(-1)[0] = sizes[group.name]
    optimizer.step(0.0, optimizer.measure())
    first = {group.settings.name: float(group.state["exp_avg"].abs().max() / 0.1) for group in optimizer.groups}
    assert first == {
        name: pytest.approx(size) for name, size in (("encoder", 1.2), ("world_model", 1.6), ("policy", 2.0))
    }


def test_targets_follow_the_values():
    model = make_model(target_rate=0.25)
    before = [p.clone() for p in model.net.target_q.parameters()]
    with torch.no_grad():
        for p in model.net.q.parameters():
            p.add_(1.0)
    online = [p.clone() for p in model.net.q.parameters()]
    model.after_update()
    for old, new, own in zip(before, model.net.target_q.parameters(), online, strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * own)


def test_task_embeddings_stay_within_the_unit_ball():
    model = make_model(task_action_dims=(1, 2), task_dim=4)
    with torch.no_grad():
        model.net.task_embedding.copy_(torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.1, 0.0, 0.0, 0.0]]))
    model.after_update()
    torch.testing.assert_close(model.net.task_embedding.data, torch.tensor([[0.6, 0.8, 0, 0], [0.1, 0, 0, 0]]))


def test_training_learns_several_tasks_apart():
    """The reward is the number of the task: nothing else tells."""
    model = make_model(moved=False, task_action_dims=(1, 2), task_dim=8).train()
    batches = [make_batch(model.config, 16, seed=seed) for seed in range(8)]
    for batch in batches:
        batch.rewards.copy_(batch.extras["task"])
    settings = TrainingConfig(
        total_steps=400, batch_size=16, sequence_length=4, learning_rate=3e-3, seed=0, device="cpu"
    )
    Trainer(model, settings).train([batch for batch, _ in zip(itertools.cycle(batches), range(400), strict=False)])
    model.eval()
    batch = make_batch(model.config, 6, seed=99)
    state = model.encode(batch.obs[:, 0], task=batch.extras["task"][:, 0])
    with torch.no_grad():
        rewards = model.imagine(state, batch.actions[:, :3].transpose(0, 1)).rewards
    assert (rewards - batch.extras["task"][:, 0]).abs().max() < 0.1


def test_every_state_has_its_task_and_its_discount():
    model = make_model(task_action_dims=(1, 2), task_episode_lengths=(250, 500)).eval()
    batch = make_batch(model.config)
    states = model.observe(batch)
    assert states.latent.shape == (4, 4, 16)
    assert states.task.tolist() == [[0] * 4, [1] * 4, [0] * 4, [1] * 4]
    torch.testing.assert_close(model.discount(states)[:2, 0], torch.tensor([0.98, 0.99]))
    future = model.imagine(states.map(lambda leaf: leaf[:, 0]), batch.actions.transpose(0, 1))
    assert future.states.task.shape == (4, 4)
    with pytest.raises(DataError, match=r"give task \[4\].*got None"):
        model.encode(batch.obs[:, 0])


def test_imagining_by_hand():
    model = make_model().eval()
    batch = make_batch(model.config)
    state = model.encode(batch.obs[:, 0])
    actions = batch.actions.transpose(0, 1)
    future = model.imagine(state, actions)
    latent = state.latent
    for step in range(4):
        joined = torch.cat([latent, actions[step]], -1)
        torch.testing.assert_close(future.rewards[step], model.net.read(model.net.reward(joined)))
        latent = model.net.dynamics(joined)
        torch.testing.assert_close(future.states.latent[step], latent)
        ends = torch.sigmoid(model.net.termination(latent))[:, 0]
        torch.testing.assert_close(future.continues[step], 1 - ends)
    with pytest.raises(DataError, match="imagine expects actions"):
        model.imagine(state, actions[0])


def test_without_a_termination_head_everything_goes_on():
    model = make_model(episodic=False).eval()
    batch = make_batch(model.config)
    future = model.imagine(model.encode(batch.obs[:, 0]), batch.actions.transpose(0, 1))
    assert (future.continues == 1).all()
    assert "termination" not in model.compute_loss(batch)


def test_there_is_no_decoder():
    model = make_model()
    with pytest.raises(ConfigError, match="TD-MPC2 has no decoder"):
        model.decode(model.encode(torch.zeros(2, 3)))


def test_the_value_is_the_mean_of_two():
    model = make_model().eval()
    state = model.encode(torch.randn(5, 3))
    action = torch.tanh(model.net.policy(state.latent).chunk(2, -1)[0])
    values = model.net.read(model.net.q(torch.cat([state.latent, action], -1)))
    torch.testing.assert_close(model.state_value(state, deterministic=True), values[:2].mean(0))
    torch.testing.assert_close(model.state_value(state, deterministic=True, pair=[1, 2]), values[1:].mean(0))


def test_bfloat16():
    model = make_model(latent=64, units=64).train()
    batch = make_batch(model.config)
    torch.manual_seed(0)
    wide = model.compute_loss(batch)["loss"]
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = model.compute_loss(batch)["loss"]
    narrow.backward()
    assert narrow.item() == pytest.approx(wide.item(), rel=0.05)
