"""Upside-down RL: losses worked out by hand, that it obeys, what it refuses."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from worldline.batch import Batch
from worldline.create import create_model, load_model
from worldline.data.buffer import ReplayBuffer
from worldline.errors import ConfigError, DataError
from worldline.models.base import num_trained
from worldline.models.udrl import SIZES, UDRL, UDRLConfig
from worldline.protocols import Commanded, Fitted, Policy, Trainable
from worldline.statistics import ColumnStatistics
from worldline.training import Trainer, TrainingConfig

KINDS: dict[str, dict[str, Any]] = {
    "discrete": {"action_dim": 3, "action_type": "discrete"},
    "multi_discrete": {"action_dim": 5, "action_type": "multi_discrete", "action_sizes": (2, 3)},
    "continuous": {"action_dim": 2, "action_type": "continuous"},
}


def statistics(**columns: Any) -> dict[str, ColumnStatistics]:
    return {name: ColumnStatistics.of([np.asarray(rows, dtype=float)]) for name, rows in columns.items()}


def make_model(kind: str, *, obs_shape: Any = (4,), **settings: Any) -> UDRL:
    """Return a fitted model: observations of mean 0, commands from (1, -100) to (99, 100)."""
    torch.manual_seed(0)
    model = UDRL(UDRLConfig(obs_shape=obs_shape, units=16, layers=2, **{**KINDS[kind], **settings}))
    shapes = model.config.obs_shapes
    obs = {name: [np.full(shape, sign) for sign in (-1, 1)] for name, shape in shapes.items()}
    named = obs if obs_shape == (4,) else {f"obs.{name}": rows for name, rows in obs.items()}
    model.fit(statistics(**named, commands=[[1, -100], [99, 100]]))
    return model


def make_batch(obs: Any, commands: Tensor, actions: Tensor, mask: Tensor | None = None) -> Batch:
    shape = actions.shape[:2]
    step_mask = torch.ones(shape, dtype=torch.bool) if mask is None else mask
    none = torch.zeros(shape, dtype=torch.bool)
    return Batch(
        obs=obs,
        actions=actions,
        rewards=torch.zeros(shape),
        terminations=none,
        is_first=none,
        step_mask=step_mask,
        obs_mask=step_mask,
        commands=commands,
    )


def with_constant_output(model: UDRL, output: list[float]) -> UDRL:
    with torch.no_grad():
        model.net.output.weight.zero_()
        model.net.output.bias.copy_(torch.tensor(output))
    return model


def example(kind: str, num: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Return observations, commands and actions of `num` windows of 3 rows."""
    generator = torch.Generator().manual_seed(0)
    obs = torch.randn(num, 3, 4, generator=generator)
    commands = torch.rand(num, 3, 2, generator=generator) * 50 + 1
    one_hot = torch.nn.functional.one_hot
    if kind == "continuous":
        return obs, commands, torch.rand(num, 3, 2, generator=generator) * 2 - 1
    third = one_hot(torch.randint(3, (num, 3), generator=generator), 3)
    if kind == "discrete":
        return obs, commands, third.float()
    half = one_hot(torch.randint(2, (num, 3), generator=generator), 2)
    return obs, commands, torch.cat([half, third], -1).float()


def test_the_cross_entropy_by_hand():
    # softmax(0, ln 2, ln 5) = (1/8, 2/8, 5/8)
    model = with_constant_output(make_model("discrete"), [0.0, math.log(2), math.log(5)])
    actions = torch.tensor([[[1.0, 0, 0], [0, 0, 1]]])
    result = model.compute_loss(make_batch(torch.zeros(1, 2, 4), torch.ones(1, 2, 2), actions))
    assert float(result["loss"].detach()) == pytest.approx((math.log(8) + math.log(8 / 5)) / 2, abs=1e-6)
    assert float(result["accuracy"]) == 0.5


def test_the_density_of_squashed_normals_by_hand():
    # Log-deviations -5 + 3.5 (tanh(r) + 1) = 0; a = 1/2 is ln(3) / 2 before the tanh, where da/du = 3/4
    raw = math.atanh(5 / 3.5 - 1)
    model = with_constant_output(make_model("continuous"), [0.0, 0.25, raw, raw])
    result = model.compute_loss(make_batch(torch.zeros(1, 1, 4), torch.ones(1, 1, 2), torch.full((1, 1, 2), 0.5)))
    u = 0.5 * math.log(3)
    expected = 0.5 * (u**2 + (u - 0.25) ** 2) + 2 * (0.5 * math.log(2 * math.pi) + math.log(0.75))
    assert float(result["loss"].detach()) == pytest.approx(expected, abs=1e-5)
    assert float(result["absolute_error"]) == pytest.approx((0.5 + 0.5 - math.tanh(0.25)) / 2, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_real_changes_nothing(kind: str):
    obs, commands, actions = example(kind)
    mask = torch.arange(3).expand(4, 3) < torch.tensor([3, 2, 1, 2])[:, None]
    results, grads = [], []
    for garbage in (0.0, float("nan"), float("inf")):
        model = make_model(kind)
        filled = [value.masked_fill(~mask[..., None], garbage) for value in (obs, commands, actions)]
        result = model.compute_loss(make_batch(*filled, mask))
        result["loss"].backward()
        results.append({name: value.detach() for name, value in result.items()})
        grads.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for result, grad in zip(results[1:], grads[1:], strict=True):
        assert all(torch.equal(value, results[0][name]) for name, value in result.items())
        assert all(torch.equal(value, grads[0][name]) and value.abs().sum() > 0 for name, value in grad.items())


def walk(*, continuous: bool) -> ReplayBuffer:
    """Return episodes of a walker who goes up or down the line, each with a bias of its own; rewards are what it went.

    So who is to come up by g in n steps must go up with probability (1 + g / n) / 2, or by g / n at each step.
    """
    generator = np.random.default_rng(0)
    buffer = ReplayBuffer(20_000, (1,), 1 if continuous else 2, action_sizes=() if continuous else (2,))
    for _ in range(800):
        bias, steps = generator.uniform(-0.9, 0.9), 20
        if continuous:
            actions = np.clip(bias + generator.normal(size=(steps, 1)) * 0.05, -1, 1)
            rewards = actions[:, 0]
        else:
            actions = (generator.random(steps) < (1 + bias) / 2).astype(int)
            rewards = 2.0 * actions - 1
        buffer.add_episode(np.zeros((steps, 1)), actions, rewards, terminated=True)
    return buffer


@pytest.mark.parametrize("continuous", [False, True])
def test_it_does_what_it_is_told(continuous: bool):
    """To get g in n steps takes actions of g / n; a reward off by one row, or a command passed by, and it could not."""
    buffer = walk(continuous=continuous)
    model = create_model(
        "udrl:small", obs_shape=(1,), action_dim=1 if continuous else 2, action_type=buffer.spec.action_type, units=32
    )
    assert isinstance(model, UDRL)
    config = TrainingConfig(
        total_steps=600, batch_size=256, sequence_length=1, learning_rate=3e-3, schedule="cosine", device="cpu", seed=0
    )
    Trainer(model, config).train(buffer)
    for told in (-0.7, -0.3, 0.0, 0.3, 0.7):
        commands = torch.tensor([[steps, told * steps] for steps in (20.0, 12.0, 8.0)])
        params = model.params(torch.zeros(3, 1), commands)
        done = torch.tanh(model.normal(params)[0])[:, 0] if continuous else torch.softmax(params, -1)[:, 1] * 2 - 1
        assert done.tolist() == pytest.approx([told] * 3, abs=0.05 if continuous else 0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_chooses_is_of_the_distribution(kind: str):
    output = {
        "discrete": [0.0, math.log(2), math.log(5)],
        "multi_discrete": [0.0, math.log(3), math.log(2), 0.0, 0.0],
        "continuous": [0.0, math.atanh(0.25), -0.5, -0.5],
    }[kind]
    expected = {
        "discrete": [1 / 8, 2 / 8, 5 / 8],
        "multi_discrete": [1 / 4, 3 / 4, 1 / 2, 1 / 4, 1 / 4],
        "continuous": [0.0, 0.25],
    }[kind]
    model = with_constant_output(make_model(kind), output)
    torch.manual_seed(0)
    actions = model.choose(torch.zeros(20_000, 4), torch.ones(20_000, 2))
    assert actions.mean(0).tolist() == pytest.approx(expected, abs=0.02)
    mode = model.choose(torch.zeros(1, 4), torch.ones(1, 2), deterministic=True)[0]
    likeliest = {"discrete": [0, 0, 1], "multi_discrete": [0, 1, 1, 0, 0], "continuous": [0.0, 0.25]}[kind]
    assert mode.tolist() == pytest.approx(likeliest)
    if kind == "continuous":
        # The median of the squashed is the squashed median; its spread is that of the normal.
        log_std = float(model.normal(torch.tensor(output))[1][0])
        assert float(torch.atanh(actions[:, 0]).std()) == pytest.approx(math.exp(log_std), rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_saving_and_loading_keeps_everything(kind: str, tmp_path: Path):
    model = make_model(kind)
    model.save_pretrained(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert isinstance(loaded, UDRL)
    obs, commands, actions = (value.flatten(0, 1) for value in example(kind))
    assert torch.equal(loaded.log_prob(obs, commands, actions), model.log_prob(obs, commands, actions))
    assert [value.tolist() for value in loaded.command_range] == [[1, -100], [99, 100]]


def test_units_of_observations_and_commands_do_not_matter_to_what_is_learnt():
    obs, _, actions = example("continuous")
    batch = make_batch(obs, torch.ones(4, 3, 2), actions)
    scaled = make_model("continuous")
    scaled.fit(statistics(obs=[[-1000.0] * 4, [1000.0] * 4], commands=[[1, -100], [99, 100]]))
    plain = make_model("continuous")
    moved = dataclasses.replace(batch, obs=obs * 1000)
    torch.testing.assert_close(scaled.compute_loss(moved)["loss"], plain.compute_loss(batch)["loss"])


def test_observations_by_name():
    model = make_model("discrete", obs_shape={"joints": (2, 3), "counts": (4,)})
    obs = {"joints": torch.randn(5, 2, 3), "counts": torch.randint(9, (5, 4), dtype=torch.uint8)}
    commands = torch.ones(5, 2)
    before = model.params(obs, commands)
    assert (model.params({**obs, "counts": obs["counts"] + 1}, commands) - before).abs().max() > 1e-4
    with pytest.raises(DataError, match="joints is missing"):
        model.params({"counts": obs["counts"]}, commands)


def test_what_it_is():
    model = create_model("udrl", obs_shape=(4,), action_dim=2)
    assert isinstance(model, UDRL)
    assert isinstance(model, Commanded)
    assert isinstance(model, Trainable)
    assert isinstance(model, Fitted)
    assert not isinstance(model, Policy)  # without a command it does not know what to do
    assert create_model("upside-down-rl", obs_shape=(4,), action_dim=2).config == model.config


def test_the_sizes():
    for size, settings in SIZES.items():
        units, layers = settings["units"], settings["layers"]
        model = create_model(f"udrl:{size}", obs_shape=(8,), action_dim=2, action_type="continuous")
        hidden = units * (8 + 1) + (layers - 1) * units * (units + 1)
        modulation = 64 * (4 + 1) + 2 * units * layers * (64 + 1)
        assert num_trained(model) == hidden + modulation + 4 * (units + 1)
    assert UDRLConfig(obs_shape=(8,), action_dim=2) == UDRLConfig(obs_shape=(8,), action_dim=2, **SIZES["base"])


def test_what_cannot_be_learnt_from():
    obs, commands, actions = example("discrete")
    with pytest.raises(DataError, match="has no commands"):
        make_model("discrete").compute_loss(dataclasses.replace(make_batch(obs, commands, actions), commands=None))
    with pytest.raises(DataError, match="Build it with action_dim=2"):
        make_model("discrete").compute_loss(make_batch(obs, commands, actions[..., :2]))
    with pytest.raises(DataError, match="does not know the scale"):
        create_model("udrl", obs_shape=(4,), action_dim=3).compute_loss(make_batch(obs, commands, actions))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"obs_shape": (64, 64, 3)}, "reads vectors, not images"),
        ({"obs_shape": (0,)}, "positive dimensions"),
        ({"units": 0}, "units must be between"),
        ({"layers": 65}, "layers must be between"),
        ({"edge": 0.0}, "edge must be between"),
        ({"command_dim": 0}, "command_dim must be between"),
        ({"activation": "silo"}, "silu"),
        ({"action_dim": 1}, "at least 2 choices"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        UDRLConfig(**({"obs_shape": (4,), "action_dim": 3} | settings))
