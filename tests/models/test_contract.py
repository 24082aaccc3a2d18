"""What holds for every model family, over vectors, images and both, with discrete and continuous actions.

The data are a small world in which everything is known: a phase goes round 0, 1, 2 and is what is observed, the reward
is a function of the action with variance 1, and an episode ends where the second half of the actions is taken in the
last phase.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from worldline.batch import Batch
from worldline.create import create_model, load_model
from worldline.data.buffer import ReplayBuffer
from worldline.models.base import WorldModel
from worldline.planning import CategoricalSequences, NormalSequences, Plan, Sequences, cem, mppi, sequence_values
from worldline.training import Trainer, TrainingConfig

PHASES, SIZE, LENGTH, HORIZON = 3, 16, 8, 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class FamilyCase:
    """A family with tiny settings, and what differs between families in how they are trained and read."""

    model: str
    settings: dict[str, Any]
    # Without thresholds below which a loss takes no gradient
    without_thresholds: dict[str, Any]
    learning_rate: float
    # The terms of the loss that fall to a tenth when one batch is learnt by heart, besides those of the observations
    overfitted: tuple[str, ...]
    # The reward that led to each row, read off states that were observed rather than imagined: [B, T]
    arrived_rewards: Callable[[Any, Any, Batch], Tensor]
    schedule: Literal["constant", "linear"] = "constant"
    decodes: bool = True
    num_overfit_steps: int = 150
    # Optimiser steps until rewards and ends are known
    num_steps: dict[str, int] = dataclasses.field(default_factory=lambda: {"discrete": 200, "continuous": 500})


def rewards_before(model: Any, states: Any, batch: Batch) -> Tensor:
    """Return what a head over states and actions says of each row's step, at the row it led to."""
    actions = torch.where(batch.step_mask[..., None], batch.actions, 0.0)
    rewards = model.net.read(model.net.reward(model.net.joined(states.latent, actions, task=None)))
    return torch.cat([torch.zeros_like(rewards[:, :1]), rewards[:, :-1]], 1)


FAMILIES = {
    "dreamerv3": FamilyCase(
        model="dreamerv3:size1m",
        settings={"deter": 64, "hidden": 32, "stoch": 4, "units": 32, "imagination_horizon": 3},
        without_thresholds={"free_nats": 0.0},
        learning_rate=4e-3,
        overfitted=("rew", "con"),
        arrived_rewards=lambda model, states, batch: model.read(model.reward, states.features),
    ),
    "tdmpc2": FamilyCase(
        model="tdmpc2:1m",
        settings={
            "latent": 32,
            "encoder_units": 32,
            "units": 64,
            "image_channels": 8,
            # Nothing but the ends, one row in ten, tells one phase from another: at its full weight, consistency holds
            # latent states together for longer than a test can wait.
            "consistency_scale": 2.0,
            "plan_samples": 32,
            "plan_elites": 8,
            "plan_policy_samples": 4,
        },
        without_thresholds={},
        learning_rate=2e-3,
        schedule="linear",  # once all is learnt, gradients are so small that Adam takes a leap now and then
        overfitted=("termination",),
        num_overfit_steps=200,
        arrived_rewards=rewards_before,
        decodes=False,
        num_steps={"discrete": 400, "continuous": 500},
    ),
}
OBS_SHAPES: dict[str, Any] = {
    "vector": (PHASES,),
    "image": (SIZE, SIZE, 1),
    "both": {"image": (SIZE, SIZE, 1), "vector": (PHASES,)},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A family, what it observes and how it acts."""

    family: FamilyCase
    obs: str
    actions: str

    def model(self, *, seed: int = 0, moved: bool = False) -> WorldModel:
        """Build the model; `moved` takes it from where gradients are zero: zero initialisations, thresholds."""
        torch.manual_seed(seed)
        settings = self.family.settings | (self.family.without_thresholds if moved else {})
        model = create_model(
            self.family.model,
            obs_shape=OBS_SHAPES[self.obs],
            action_dim=2,
            action_type=self.actions,
            **settings,
        )
        assert isinstance(model, WorldModel)
        if moved:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.05 * torch.randn_like(parameter))
        return model.train()

    def buffer(self, num_episodes: int, *, seed: int = 0) -> ReplayBuffer:
        """Return episodes of a random policy."""
        generator = np.random.default_rng(seed)
        discrete = self.actions == "discrete"
        buffer = ReplayBuffer(num_episodes * 12, OBS_SHAPES[self.obs], 2, action_sizes=(2,) if discrete else ())
        for _ in range(num_episodes):
            phase = int(generator.integers(PHASES))
            phases, actions, rewards, terminated = [phase], [], [], False
            while len(actions) < 12 and not terminated:
                if discrete:
                    action = int(generator.integers(2))
                    reward, is_bold = 2.0 * action - 1, action == 1  # -1 or 1: variance 1
                else:
                    action = generator.uniform(-1, 1, 2).astype(np.float32)
                    reward, is_bold = np.sqrt(3) * action[0], action[1] > 0  # uniform within the root of 3: variance 1
                actions.append(action)
                rewards.append(reward)
                terminated = phase == PHASES - 1 and bool(is_bold)
                phase = (phase + 1) % PHASES
                phases.append(phase)
            obs = self.observe(np.array(phases))
            buffer.add_episode(
                {name: value[:-1] for name, value in obs.items()} if self.obs == "both" else obs[self.obs][:-1],
                np.array(actions),
                np.array(rewards),
                terminated=terminated,
                truncated=not terminated,
                final_obs={name: value[-1] for name, value in obs.items()} if self.obs == "both" else obs[self.obs][-1],
            )
        return buffer

    @staticmethod
    def observe(phases: np.ndarray) -> dict[str, np.ndarray]:
        images = np.zeros((PHASES, SIZE, SIZE, 1), np.uint8)
        for phase in range(PHASES):
            images[phase, 5 * phase : 5 * phase + 5] = 255
        return {"vector": np.eye(PHASES, dtype=np.float32)[phases], "image": images[phases]}

    def train(self, model: WorldModel, data: Any, num_steps: int) -> None:
        config = TrainingConfig(
            total_steps=num_steps,
            batch_size=16,
            sequence_length=LENGTH,
            learning_rate=self.family.learning_rate,
            schedule=self.family.schedule,
            seed=0,
            device="cpu",
        )
        Trainer(model, config).train(data)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> FamilyCase:
    return FAMILIES[request.param]


@pytest.fixture(params=["discrete", "continuous"])
def actions(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=OBS_SHAPES)
def case(request: pytest.FixtureRequest, family: FamilyCase, actions: str) -> Case:
    return Case(family=family, obs=request.param, actions=actions)


def obs_tensors(obs: Any) -> list[Tensor]:
    return list(obs.values()) if isinstance(obs, dict) else [obs]


def loss_and_gradients(model: WorldModel, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    model.zero_grad()
    torch.manual_seed(0)
    result = model.compute_loss(batch)
    result["loss"].backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    return {name: value.detach() for name, value in result.items()}, grads


def test_the_loss_is_finite_and_reaches_every_parameter(case: Case):
    model = case.model(moved=True)
    result, grads = loss_and_gradients(model, case.buffer(40).sample(8, LENGTH))
    assert all(value.isfinite() for value in result.values())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert name in grads, name
            assert grads[name].isfinite().all(), name
            assert grads[name].abs().sum() > 0, name


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -1e30])
def test_padding_changes_nothing(case: Case, garbage: float):
    """Neither losses nor metrics nor gradients depend on what is in rows that are not real."""
    batch = case.buffer(40).sample(8, 11)
    steps, seen = batch.step_mask, batch.obs_mask
    assert 0 < seen.sum() < seen.numel(), "the windows must have padding"
    expected, expected_grads = loss_and_gradients(case.model(moved=True), batch)
    batch.actions[~steps] = garbage
    batch.rewards[~steps] = garbage
    batch.terminations[~steps] = True
    for obs in obs_tensors(batch.obs):
        obs[~seen] = garbage if obs.is_floating_point() else 200
    result, grads = loss_and_gradients(case.model(moved=True), batch)
    for name, value in expected.items():
        assert torch.equal(result[name], value), name
    for name, grad in expected_grads.items():
        assert torch.equal(grads[name], grad), name


def test_longer_padding_changes_no_observed_state(case: Case):
    """The same windows with more padding behind them are the same states."""
    model = case.model(moved=True).eval()
    batch = case.buffer(40).sample(8, LENGTH)
    padded = batch.map(lambda tensor: torch.cat([tensor, torch.zeros_like(tensor[:, :3])], 1))
    first, second = [], []
    model.observe(batch).map(lambda leaf: first.append(leaf) or leaf)
    model.observe(padded).map(lambda leaf: second.append(leaf) or leaf)
    for ours, theirs in zip(first, second, strict=True):
        assert torch.allclose(ours, theirs[:, :LENGTH], atol=1e-5)


def test_saving_and_loading_gives_the_same_model(case: Case, tmp_path: Path):
    model = case.model(moved=True).eval()
    model.save_pretrained(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    batch = case.buffer(20).sample(4, LENGTH)
    with torch.no_grad():
        torch.manual_seed(0)
        expected = model.compute_loss(batch)
        torch.manual_seed(0)
        result = loaded.compute_loss(batch)
    assert all(torch.equal(result[name], value) for name, value in expected.items())
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_evaluation_is_deterministic(case: Case):
    model = case.model(moved=True).eval()
    batch = case.buffer(20).sample(4, LENGTH)
    first = {name: value[:, 0] for name, value in batch.obs.items()} if case.obs == "both" else batch.obs[:, 0]

    def run() -> list[Tensor]:
        outputs: list[Tensor] = []
        start = model.encode(first)
        future = model.imagine(start, batch.actions.transpose(0, 1))
        for states in (start, model.observe(batch), future.states):
            states.map(lambda leaf: outputs.append(leaf) or leaf)
        action, _ = model.act(first, deterministic=True)
        decoded = obs_tensors(model.decode(future.states)) if case.family.decodes else []
        return [*outputs, *decoded, future.rewards, future.continues, action]

    with torch.no_grad():
        torch.manual_seed(0)
        expected = run()
        torch.manual_seed(1)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(run(), expected, strict=True))


def test_one_batch_is_learnt_by_heart(case: Case):
    """Losses of the observations and of reward and end fall to a tenth."""
    model = case.model()
    batch = case.buffer(40).sample(8, LENGTH)
    observed = [*(OBS_SHAPES["both"] if case.obs == "both" else ["obs"])] if case.family.decodes else []
    names = [*observed, *case.family.overfitted]

    def total() -> float:
        torch.manual_seed(0)
        with torch.no_grad():
            result = model.train().compute_loss(batch)
        return sum(float(result[name]) for name in names)

    before = total()
    case.train(model, [batch], case.family.num_overfit_steps)
    assert total() < 0.1 * before


def check_alignment(case: Case, num_steps: int) -> None:
    """Train on random play, then hold predicted rewards and ends against those of other episodes."""
    model = case.model()
    case.train(model, case.buffer(300), num_steps)
    batch = case.buffer(60, seed=1).sample(64, LENGTH)
    with torch.no_grad():
        states = model.observe(batch)
        arrived = case.family.arrived_rewards(model, states, batch)
        actions = batch.actions[:, 1 : 1 + HORIZON].transpose(0, 1)
        future = model.imagine(states.map(lambda leaf: leaf[:, 1]), actions)
    rewards, ends, real = (
        tensor[:, 1 : 1 + HORIZON].T for tensor in (batch.rewards, batch.terminations, batch.step_mask)
    )
    assert rewards[real].var() > 0.8
    assert ends[real].sum() > 10
    assert (future.rewards - rewards)[real].square().mean() < 0.01
    # The reward of row t arrives with row t + 1.
    real_arrival = batch.step_mask[:, :-1]
    assert (arrived[:, 1:] - batch.rewards[:, :-1])[real_arrival].square().mean() < 0.01
    # Where a continuous action is near the edge between going on and ending, it cannot be told.
    if case.actions == "continuous":
        real = real & (actions[..., 1].abs() > 0.1)
    assert (future.continues - (~ends).float())[real].square().mean() < 0.02


def test_rewards_and_ends_belong_to_the_action_before_them(case: Case):
    """A row off, in the data, the loss or imagination, and the error would be the variance, 1."""
    check_alignment(case, case.family.num_steps[case.actions])


@pytest.mark.parametrize("search", [mppi, cem])
def test_every_family_plans(family: FamilyCase, actions: str, search: Callable[..., Plan]):
    """What the planner chooses is worth more than what it began with, to the model."""
    case = Case(family=family, obs="vector", actions=actions)
    model: Any = case.model(moved=True).eval()
    obs = torch.eye(PHASES)
    shape = (3, PHASES, 2)
    start: Sequences
    if actions == "discrete":
        start = CategoricalSequences.start(None, shape, floor=0.1)
    else:
        start = NormalSequences.start(None, shape, min_std=0.05, max_std=2.0)
    with torch.no_grad():
        state = model.encode(obs)
        torch.manual_seed(0)
        evaluate = lambda sequences: sequence_values(model, state, sequences, deterministic=True)  # noqa: E731
        plan = search(evaluate, start, samples=64, elites=8, iterations=4)
        chosen = evaluate(plan.actions[:, :, None])[:, 0]  # [N]
        usual = evaluate(start.sample(64, None)).mean(1)
    assert plan.actions.shape == shape
    assert (chosen > usual).all()
