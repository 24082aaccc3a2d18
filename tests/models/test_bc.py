"""Behaviour cloning: losses worked out by hand, what it learns, how it acts, what it refuses."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from worldline.batch import Batch
from worldline.create import create_model, load_model
from worldline.errors import ConfigError, DataError
from worldline.models.base import WorldModel, num_trained
from worldline.models.bc import BC, SIZES, BCConfig
from worldline.protocols import Policy, Trainable
from worldline.statistics import ColumnStatistics
from worldline.training import Trainer, TrainingConfig

KINDS: dict[str, dict[str, Any]] = {
    "discrete": {"action_dim": 3, "action_type": "discrete"},
    "multi_discrete": {"action_dim": 5, "action_type": "multi_discrete", "action_sizes": (2, 3)},
    "continuous": {"action_dim": 2, "action_type": "continuous"},
}


def make_model(kind: str, *, obs_shape: Any = (4,), **settings: Any) -> BC:
    torch.manual_seed(0)
    return BC(BCConfig(obs_shape=obs_shape, units=16, **{**KINDS[kind], **settings}))


def make_batch(obs: Any, actions: Tensor, mask: Tensor | None = None) -> Batch:
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
    )


def toy(kind: str, num: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return observations `[num, 8, 4]` and the actions of an expert, which the first two numbers decide on."""
    obs = torch.randn(num, 8, 4, generator=torch.Generator().manual_seed(seed))
    third = (obs[..., 0] > -0.5).long() + (obs[..., 0] > 0.5).long()
    if kind == "continuous":
        return obs, torch.stack([0.8 * torch.tanh(obs[..., 0]), -0.5 * torch.tanh(obs[..., 1])], -1)
    one_hot = torch.nn.functional.one_hot
    if kind == "discrete":
        return obs, one_hot(third, 3).float()
    return obs, torch.cat([one_hot((obs[..., 1] > 0).long(), 2), one_hot(third, 3)], -1).float()


def with_constant_output(model: BC, output: list[float]) -> BC:
    """Let the network say `output`, whatever is observed."""
    last: Any = model.net.layers[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor(output))
    return model


def test_the_cross_entropy_by_hand():
    # softmax(0, ln 2, ln 5) = (1/8, 2/8, 5/8)
    model = with_constant_output(make_model("discrete"), [0.0, math.log(2), math.log(5)])
    actions = torch.tensor([[[1.0, 0, 0], [0, 0, 1]]])
    result = model.compute_loss(make_batch(torch.zeros(1, 2, 4), actions))
    assert float(result["loss"].detach()) == pytest.approx((math.log(8) + math.log(8 / 5)) / 2, abs=1e-6)
    assert float(result["accuracy"]) == 0.5


def test_the_cross_entropies_of_several_actions_are_summed():
    # (1/4, 3/4) and (1/2, 1/4, 1/4)
    model = with_constant_output(make_model("multi_discrete"), [0.0, math.log(3), math.log(2), 0.0, 0.0])
    actions = torch.tensor([[[1.0, 0, 1, 0, 0]]])
    result = model.compute_loss(make_batch(torch.zeros(1, 1, 4), actions))
    assert float(result["loss"].detach()) == pytest.approx(math.log(4) + math.log(2), abs=1e-6)
    assert float(result["accuracy"]) == 0.5


def test_the_density_of_normals_by_hand():
    # Means (0, 1/2); deviations 1/2: -log p = sum of (2 d)^2 / 2 + log(1/2) + log(2 pi) / 2
    model = with_constant_output(make_model("continuous"), [0.0, math.atanh(0.5)])
    with torch.no_grad():
        model.raw_std.fill_(math.log(math.expm1(0.5 - model.config.min_std)))
    result = model.compute_loss(make_batch(torch.zeros(1, 1, 4), torch.tensor([[[0.5, -0.5]]])))
    expected = (0.5 + 2.0) + 2 * (math.log(0.5) + 0.5 * math.log(2 * math.pi))
    assert float(result["loss"].detach()) == pytest.approx(expected, abs=1e-5)
    assert float(result["absolute_error"]) == pytest.approx(0.75, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_real_changes_nothing(kind: str):
    obs, actions = toy(kind, 4, 0)
    mask = torch.arange(8).expand(4, 8) < torch.tensor([8, 5, 1, 3])[:, None]
    results, grads = [], []
    for garbage in (0.0, float("nan"), float("inf")):
        model = make_model(kind)
        filled = make_batch(obs.masked_fill(~mask[..., None], garbage), actions.masked_fill(~mask[..., None], garbage))
        result = model.compute_loss(dataclasses.replace(filled, step_mask=mask, obs_mask=mask))
        result["loss"].backward()
        results.append({name: value.detach() for name, value in result.items()})
        grads.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for result, grad in zip(results[1:], grads[1:], strict=True):
        assert all(torch.equal(value, results[0][name]) for name, value in result.items())
        assert all(torch.equal(value, grads[0][name]) and value.abs().sum() > 0 for name, value in grad.items())


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_what_the_expert_does(kind: str):
    """On observations that it has not seen; a row off, and it would learn nothing."""
    model = make_model(kind)
    config = TrainingConfig(total_steps=300, learning_rate=1e-2, schedule="linear", device="cpu", seed=0)
    Trainer(model, config).train([make_batch(*toy(kind, 64, 1))])
    obs, actions = toy(kind, 32, 2)
    chosen, state = model.act(obs.flatten(0, 1), deterministic=True)
    assert state is None
    difference = (chosen - actions.flatten(0, 1)).abs()
    if kind == "continuous":
        assert float(difference.mean()) < 0.05
    else:
        assert float((difference.sum(-1) == 0).float().mean()) > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_of_the_distribution(kind: str):
    output = {
        "discrete": [0.0, math.log(2), math.log(5)],
        "multi_discrete": [0.0, math.log(3), math.log(2), 0.0, 0.0],
        "continuous": [0.0, math.atanh(0.25)],
    }[kind]
    expected = {
        "discrete": [1 / 8, 2 / 8, 5 / 8],
        "multi_discrete": [1 / 4, 3 / 4, 1 / 2, 1 / 4, 1 / 4],
        "continuous": [0.0, 0.25],
    }[kind]
    model = with_constant_output(make_model(kind), output)
    if model.raw_std is not None:
        with torch.no_grad():
            model.raw_std.fill_(-2.0)  # about 0.14: few samples are cut off
    torch.manual_seed(0)
    actions, _ = model.act(torch.zeros(20_000, 4))
    assert actions.abs().max() <= 1
    assert actions.mean(0).tolist() == pytest.approx(expected, abs=0.02)
    assert actions.std(0).min() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_saving_and_loading_gives_the_same_policy(kind: str, tmp_path: Path):
    model = make_model(kind)
    model.save_pretrained(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert isinstance(loaded, BC)
    obs = torch.randn(16, 4)
    assert torch.equal(loaded.act(obs, deterministic=True)[0], model.act(obs, deterministic=True)[0])


def test_observations_by_name_of_any_rank_and_type():
    shapes = {"joints": (2, 3), "counts": (4,)}
    model = make_model("discrete", obs_shape=shapes)
    obs = {
        "joints": torch.randn(5, 2, 3),
        "counts": torch.randint(9, (5, 4), dtype=torch.uint8),
        "unused": torch.ones(5),
    }
    actions, _ = model.act(obs, deterministic=True)
    assert actions.shape == (5, 3)
    batch = make_batch({name: obs[name][None] for name in shapes}, actions[None])
    moved = dataclasses.replace(batch, obs={**batch.obs, "counts": batch.obs["counts"].float() * 1e3})
    assert float(model.compute_loss(moved)["loss"].detach()) != float(model.compute_loss(batch)["loss"].detach())
    with pytest.raises(DataError, match="joints is missing"):
        model.act({"counts": obs["counts"]})


def test_it_is_a_model_that_acts_but_no_world_model():
    model = create_model("bc:small", obs_shape=(4,), action_dim=2)
    assert isinstance(model, BC)
    assert isinstance(model, Policy)
    assert isinstance(model, Trainable)
    assert not isinstance(model, WorldModel)
    assert create_model("behavior-cloning", obs_shape=(4,), action_dim=2).config == model.config


def test_the_sizes():
    """A layer has a weight for each input, a bias, a scale and a shift; the last one has neither scale nor shift."""
    small, base = (create_model(f"bc:{size}", obs_shape=(4,), action_dim=2) for size in SIZES)
    assert num_trained(small) == 256 * (4 + 3) + 256 * (256 + 3) + 2 * 257
    assert num_trained(base) == 512 * (4 + 3) + 2 * 512 * (512 + 3) + 2 * 513
    assert dataclasses.replace(small.config, **SIZES["small"]) == BCConfig(obs_shape=(4,), action_dim=2)


def test_other_actions_than_it_was_built_for():
    with pytest.raises(DataError, match="Build it with action_dim=2"):
        make_model("discrete").compute_loss(make_batch(torch.zeros(1, 2, 4), torch.zeros(1, 2, 2)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"obs_shape": {"left": (8, 8, 3), "right": (16, 16, 3)}}, "Resize them"),
        ({"image_widths": (12,)}, "image_widths must be multiples of 8"),
        ({"image_shift": -1}, "image_shift must be between"),
        ({"loss": "squared"}, "discrete ones have loss='likelihood'"),
        ({"obs_shape": (0,)}, "positive dimensions"),
        ({"units": 0}, "units must be between"),
        ({"layers": 65}, "layers must be between"),
        ({"min_std": 0.0}, "min_std must be between"),
        ({"action_dim": 0}, "action_dim must be at least 1"),
        ({"action_dim": 1}, "at least 2 choices"),
        ({"action_type": "multi_discrete", "action_sizes": (2, 3)}, "sums to 5"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        BCConfig(**({"obs_shape": (4,), "action_dim": 3} | settings))


@pytest.mark.parametrize(("loss", "expected"), [("squared", (0.5**2 + 1.0**2) / 2), ("absolute", 0.75)])
def test_errors_of_continuous_actions_by_hand(loss: str, expected: float):
    model = with_constant_output(make_model("continuous", loss=loss), [0.0, math.atanh(0.5)])
    result = model.compute_loss(make_batch(torch.zeros(1, 1, 4), torch.tensor([[[0.5, -0.5]]])))
    assert float(result["loss"].detach()) == pytest.approx(expected, abs=1e-6)
    sampled, _ = model.act(torch.zeros(3, 4))
    assert torch.allclose(sampled, torch.tensor([0.0, 0.5]).expand(3, 2), atol=1e-6)


def test_a_model_of_vectors_has_the_weights_it_always_had():
    """Those that were saved before images could be read are still loaded."""
    assert {name.partition(".")[0] for name in make_model("continuous").state_dict()} == {"net", "raw_std"}


def test_normalising_by_the_data():
    model = make_model("continuous", normalization="standard")
    assert not model.is_fitted
    assert make_model("continuous").is_fitted
    with pytest.raises(DataError, match="call model"):
        model.act(torch.zeros(1, 4))
    obs = torch.tensor([[1.0, 0, 0, 0], [3.0, 0, 0, 0]])
    model.fit({"obs": ColumnStatistics.of([obs.numpy()])})
    inputs = model.inputs({"obs": obs[:, None]})
    assert inputs.vectors is not None
    assert inputs.vectors[:, 0].tolist() == [[-1.0, 0, 0, 0], [1.0, 0, 0, 0]]
