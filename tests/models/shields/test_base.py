"""What holds for every shield, trained or not: most of it must not depend on what was learnt."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.shields.small_world import SHIELDS, STATE_DIM, pairs, recorded, shield
from worldline.batch import Batch
from worldline.create import load_model
from worldline.data.buffer import ReplayBuffer
from worldline.errors import ConfigError, DataError
from worldline.models.shields import BaseShield

# Fewer than usual: what is tested here does not depend on how exact a density is.
SOLVER_STEPS: dict[str, Any] = {name: {"num_solver_steps": 4} for name in ("shield:diffusion", "shield:flow_matching")}

pytestmark = pytest.mark.parametrize("model", SHIELDS)


@pytest.fixture(scope="module")
def data() -> ReplayBuffer:
    return recorded(60)


@pytest.fixture(scope="module")
def held_out() -> ReplayBuffer:
    return recorded(120, seed=1)


def random_commands(num: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return states of the data and commands far and near, also with horizons that there cannot be."""
    draws = torch.Generator().manual_seed(seed)
    states, _ = pairs(recorded(60, seed=2))
    chosen = states[torch.randint(len(states), (num,), generator=draws)]
    spread = 10 ** (3 * torch.rand(num, 1, generator=draws) - 1)
    return chosen, torch.randn(num, 2, generator=draws) * spread * torch.tensor([5.0, 10.0]) + 5


def batch_of(data: ReplayBuffer, built: BaseShield, *, seq_len: int = 4) -> Batch:
    return data.sample(8, seq_len, windows=built.windows)


def test_every_parameter_gets_a_gradient(model: str, data: ReplayBuffer):
    built = shield(model, data)
    losses = built.compute_loss(batch_of(data, built))
    losses["loss"].backward()
    for name, parameter in built.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_padding_changes_nothing(model: str, data: ReplayBuffer):
    built = shield(model, data)
    batch = data.sample(8, 40, windows=built.windows)
    assert not batch.step_mask.all()
    spoilt = Batch(
        **{name: batch[name] for name in batch if name not in ("obs", "commands")},
        obs=torch.where(batch.obs_mask[..., None], batch.obs, torch.nan),
        commands=torch.where(batch.step_mask[..., None], batch.commands, torch.nan),
    )
    found = []
    for each in (batch, spoilt):
        torch.manual_seed(0)
        found.append(built.compute_loss(each)["loss"])
    assert found[0] == found[1]


def test_it_learns(model: str, data: ReplayBuffer):
    built = shield(model, data, moved=False)
    optimizer = torch.optim.Adam(built.parameters(), lr=1e-2)
    losses = []
    for _ in range(150):
        loss = built.compute_loss(data.sample(64, 1, windows=built.windows))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:5])
    states, commands = pairs(data)
    assert built.log_prob(states, commands).mean() > built.log_prob(states, commands.flip(0)).mean() + 0.5


def test_a_batch_without_commands_is_refused(model: str, data: ReplayBuffer):
    built = shield(model, data)
    with pytest.raises(DataError, match=r"windows=model\.windows"):
        built.compute_loss(data.sample(8, 4))


def test_a_shield_that_was_not_fitted_says_so(model: str):
    with pytest.raises(DataError, match="does not know the scale"):
        shield(model).log_prob(torch.zeros(1, STATE_DIM), torch.ones(1, 2))


def test_a_shield_that_was_not_calibrated_says_so(model: str, data: ReplayBuffer):
    built = shield(model, data)
    for ask in (built.score, built.is_ood, built.project):
        with pytest.raises(DataError, match=r"shield\.calibrate"):
            ask(torch.zeros(1, STATE_DIM), torch.ones(1, 2))


def test_too_few_episodes_are_refused(model: str, data: ReplayBuffer, held_out: ReplayBuffer):
    built = shield(model, data)
    with pytest.raises(DataError, match=r"alpha=0\.01 takes 134 held-out episodes; got 120"):
        built.calibrate(held_out, 0.01)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        built.calibrate(held_out, 5.0)
    with pytest.raises(DataError, match="smaller num_horizon_bins"):
        shield(model, data, num_horizon_bins=20).calibrate(recorded(30), 0.05)


def test_as_many_episodes_as_the_message_says_are_enough(model: str, data: ReplayBuffer):
    shield(model, data).calibrate(recorded(134), 0.01)


def test_density_integrates_to_one(model: str, data: ReplayBuffer):
    built = shield(model, data)
    states, _ = pairs(data)
    scale, shift = built.commands.scale, built.commands.shift
    axis = torch.linspace(-8, 8, 161)
    for state in states[:2]:
        if model == "shield:quantile":  # a density of returns, for a horizon; its tails are long
            axis = torch.linspace(-60, 60, 12_001)
            points = torch.stack((torch.full_like(axis, 0.3), axis), 1)
            volume = scale[1]
        else:
            points = torch.cartesian_prod(axis, axis)
            volume = scale.prod() * 0.1
        spacing = axis[1] - axis[0]
        density = built.log_prob(state.expand(len(points), -1), points * scale + shift).exp()
        assert (density.sum() * volume * spacing).item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("unit", ["row", "episode"])
def test_false_alarms_are_as_rare_as_promised(model: str, unit: str, data: ReplayBuffer):
    """Whatever the model has learnt: this one has learnt nothing. Over many splits of episodes."""
    if model != "shield:quantile":
        pytest.skip("calibration is the same for all shields, and this one's scores take the least time")
    built = shield(model, data, layers=1, units=4)
    everything = recorded(1000, seed=3)
    episodes = list(everything.episodes())
    states, commands = pairs(everything)
    of_episode = torch.repeat_interleave(torch.tensor([len(episode) for episode in episodes]))
    alpha, num, rates = 0.1, 50, []
    for split in range(40):
        chosen = torch.randperm(len(episodes), generator=torch.Generator().manual_seed(split))[:num].tolist()
        built.calibrate(ReplayBuffer.from_episodes([episodes[i] for i in chosen], action_dim=1), alpha, unit=unit)
        flagged = built.is_ood(states[::3], commands[::3]) if unit == "row" else built.is_ood(states, commands)
        rows = of_episode[::3] if unit == "row" else of_episode
        flags = torch.zeros(len(episodes)).scatter_reduce(
            0, rows, flagged.float(), "mean" if unit == "row" else "amax", include_self=False
        )
        rates.append(flags.mean().item())
    spread = 4 * np.std(rates) / math.sqrt(len(rates))
    assert alpha - 1 / 39 - spread <= np.mean(rates) <= alpha + spread
    assert np.std(rates) > 0


def test_one_calibration_tells_the_thresholds_of_every_alpha(model: str, data: ReplayBuffer):
    built = shield(model, data, num_horizon_bins=2, **SOLVER_STEPS.get(model, {}))
    episodes, horizons = recorded(200, seed=4), torch.arange(1.0, 40.0)
    calibration = built.calibrate(episodes, 0.05)
    assert torch.equal(calibration.thresholds(0.05), built.thresholds)
    built.calibrate(episodes, 0.2)
    assert torch.equal(calibration.thresholds(0.2), built.thresholds)  # as if calibrated anew
    assert calibration.limits(horizons, 0.2).tolist() == [
        built.thresholds[int(horizon > built.edges[0])].item() for horizon in horizons
    ]
    with pytest.raises(ConfigError, match="between 0 and 1"):
        calibration.thresholds(1.0)


def test_bins_of_the_horizon_have_thresholds_of_their_own(model: str, data: ReplayBuffer):
    built = shield(model, data, num_horizon_bins=3, **SOLVER_STEPS.get(model, {}))
    built.calibrate(recorded(400, seed=4), 0.1)
    assert built.edges[0] < built.edges[1]
    assert len(set(built.thresholds.tolist())) > 1
    states, commands = (each[::4] for each in pairs(recorded(400, seed=5)))
    flagged = built.is_ood(states, commands).float()
    bins = torch.bucketize(commands[:, 0], built.edges)
    for index in range(3):
        # A deviation of 0.02 that of 300 episodes' threshold, and as much of what is measured
        assert flagged[bins == index].mean().item() == pytest.approx(0.1, abs=0.1)


def test_states_unlike_any_are_flagged(model: str, data: ReplayBuffer, held_out: ReplayBuffer):
    built = shield(model, data)
    built.calibrate(held_out, 0.1)
    states, commands = pairs(data)
    far = states + torch.tensor([50.0, 0.0, 0.0])
    assert built.is_ood(far, commands).all()
    assert (built.state_score(far) > built.thresholds).all()
    odd = torch.tensor([[torch.nan, 0.0, 0.0], [torch.inf, 0.0, 0.0]])
    assert built.is_ood(odd, commands[:2]).all()


def test_commands_that_cannot_be_are_flagged(model: str, data: ReplayBuffer, held_out: ReplayBuffer):
    built = shield(model, data)
    built.calibrate(held_out, 0.1)
    states, commands = pairs(data)
    one = states[:1].expand(5, -1)
    nan, inf = torch.nan, torch.inf
    wild = torch.tensor([[nan, 0.0], [5.0, nan], [5.0, inf], [0.0, 0.0], [5.0, 1e6]])
    assert built.is_ood(one, wild).all()
    assert built.is_ood(states, commands, threshold=1e9).sum() == 0
    assert built.is_ood(states, commands, threshold=-1e9).all()


def test_scores_far_away_do_not_saturate(model: str, data: ReplayBuffer, held_out: ReplayBuffer):
    built = shield(model, data)
    built.calibrate(held_out, 0.1)
    state = pairs(data)[0][:1].expand(4, -1)
    scores = built.command_score(state, torch.tensor([[5.0, 50.0], [5.0, 500.0], [5.0, 5000.0], [5.0, 50_000.0]]))
    assert (scores.diff() > scores[:-1].abs()).all()


@pytest.mark.parametrize("bins", [1, 3])
def test_projected_commands_pass(model: str, bins: int, data: ReplayBuffer):
    built = shield(model, data, num_horizon_bins=bins, **SOLVER_STEPS.get(model, {}))
    built.calibrate(recorded(200, seed=1), 0.1)
    states, commands = random_commands(100)
    before = built.is_ood(states, commands)
    projected = built.project(states, commands, num_steps=5)
    state_is_odd = built.state_score(states) > built.thresholds.min()
    assert before.any()
    assert not (built.is_ood(states, projected) & ~state_is_odd).any()
    assert (built.command_score(states, projected) <= built.thresholds.max()).all()
    assert (projected[:, 0] >= 1).all()
    assert torch.equal(projected[~before], commands[~before])
    changed = (projected != commands).any(1)
    assert changed[before & ~state_is_odd].all()
    # One by one it is the same, but for rounding.
    alone = torch.cat([built.project(states[i : i + 1], commands[i : i + 1], num_steps=5) for i in range(10)])
    assert not (built.is_ood(states[:10], alone) & ~state_is_odd[:10]).any()


def test_a_projection_that_fails_after_all_gives_what_is_surely_allowed(
    model: str, data: ReplayBuffer, held_out: ReplayBuffer, monkeypatch: pytest.MonkeyPatch
):
    built = shield(model, data, **SOLVER_STEPS.get(model, {}))
    built.calibrate(held_out, 0.1)
    states, commands = random_commands(40, seed=3)
    flagged = built.command_score(states, commands) > built.thresholds.max()
    assert flagged.any()
    monkeypatch.setattr("worldline.models.shields.base.nearest_allowed", lambda excess, wanted, *_, **__: wanted)
    projected = built.project(states, commands)
    assert (built.command_score(states, projected) <= built.thresholds.max()).all()
    assert (projected[:, 0] >= 1).all()
    assert torch.equal(projected[~flagged], commands[~flagged])


def test_projected_commands_are_the_nearest_that_pass(model: str, data: ReplayBuffer, held_out: ReplayBuffer):
    """Against all points of a grid: no further than 3% and a cell, in the worst of 15 cases."""
    built = shield(model, data, **SOLVER_STEPS.get(model, {}))
    built.calibrate(held_out, 0.1)
    states, commands = random_commands(300, seed=1)
    asked = built.is_ood(states, commands) & (built.state_score(states) < built.thresholds)
    asked &= (commands[:, 0] >= 1) & (built.commands(commands).abs().amax(1) < 6)
    states, commands = states[asked][:15], commands[asked][:15]
    assert len(states) >= 10
    axis = torch.linspace(-5, 5, 101)
    grid = torch.cartesian_prod(axis, axis)
    grid = grid[built.commands.inverse(grid)[:, 0] >= 1]
    projected = built.project(states, commands)
    for state, command, found in zip(states, commands, projected, strict=True):
        with torch.no_grad():
            scores = built.scorer(built._normalized_states(state[None]))(grid[None])[0] / built.scales[0]
        wanted = built.commands(command)
        best = (grid[scores <= built.thresholds] - wanted).norm(dim=1).min()
        assert (built.commands(found) - wanted).norm() < 1.03 * best + 0.1


def test_saved_and_loaded_it_says_the_same(model: str, data: ReplayBuffer, held_out: ReplayBuffer, tmp_path: Path):
    built = shield(model, data, num_horizon_bins=2)
    built.calibrate(held_out, 0.1)
    built.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, BaseShield)
    states, commands = random_commands(50)
    assert torch.equal(loaded.score(states, commands), built.score(states, commands))
    assert torch.equal(loaded.is_ood(states, commands), built.is_ood(states, commands))
    assert torch.equal(loaded.project(states[:5], commands[:5]), built.project(states[:5], commands[:5]))


def test_nothing_that_is_asked_draws_random_numbers(model: str, data: ReplayBuffer, held_out: ReplayBuffer):
    built = shield(model, data)
    before = torch.get_rng_state()
    built.calibrate(held_out, 0.1)
    states, commands = random_commands(5)
    built.log_prob(states, commands), built.score(states, commands), built.project(states, commands)
    assert torch.equal(torch.get_rng_state(), before)


def test_wrong_shapes_are_refused(model: str, data: ReplayBuffer):
    built = shield(model, data)
    with pytest.raises(DataError, match=r"expected \[2, 2\]"):
        built.log_prob(torch.zeros(2, STATE_DIM), torch.ones(3, 2))
    with pytest.raises(DataError, match="Observation 'obs' must be"):
        built.log_prob(torch.zeros(2, STATE_DIM + 1), torch.ones(2, 2))


def test_the_excess_is_zero_on_the_boundary(model: str, data: ReplayBuffer, held_out: ReplayBuffer):
    built = shield(model, data, **SOLVER_STEPS.get(model, {}))
    states, commands = random_commands(64)
    with pytest.raises(DataError, match="no threshold"):
        built.excess(states, commands)
    built.calibrate(held_out, 0.1)
    excess = built.excess(states, commands)
    assert torch.equal(excess, built.command_score(states, commands) - built.thresholds[0])
    flagged = built.is_ood(states, commands)
    assert bool(flagged[excess > 0].all())
    assert torch.equal(flagged[excess <= 0], built.state_score(states[excess <= 0]) > built.thresholds[0])
    projected = built.project(states, commands)
    assert bool((built.excess(states, projected) <= 0).all())


def test_some_anchor_is_typical_in_every_state(model: str, data: ReplayBuffer):
    built = shield(model, data)
    states = built.states(random_commands(40)[0])
    with torch.no_grad():
        scores = built.scorer(states)(built.anchors(states, torch.zeros(40, 2)))
    assert (scores.amin(1) < 1e-5).all()
