"""What holds for every policy that imitates, over vectors, images, text and all of them.

The demonstrations are of a small world in which everything is known: a phase goes round 0, 1, 2, and is what is
observed; the demonstrator's action is a function of the phase. So the k-th action of a chunk is known as well, and a
policy that were off by one row would take the action of another phase.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from worldline.batch import Batch
from worldline.create import create_model, load_model
from worldline.data.buffer import ReplayBuffer
from worldline.models.base import Model
from worldline.models.predict import predict
from worldline.protocols import Policy, Trainable
from worldline.training import Trainer, TrainingConfig

PHASES, SIZE, HORIZON, STEPS = 3, 16, 4, 7
ACTIONS = np.array([[-0.8, 0.3], [0.1, -0.5], [0.7, 0.9]], dtype=np.float32)  # [phase, A]
WORDS = np.array([list(b"one\0"), list(b"two\0"), list(b"four")], dtype=np.uint8)
OBS_SHAPES: dict[str, Any] = {
    "vector": (PHASES,),
    "image": (SIZE, SIZE, 1),
    "language": {"language": (4,)},
    "all": {"image": (SIZE, SIZE, 1), "language": (4,), "number": (), "vector": (PHASES,)},
}
SMALL = {"image_widths": (8, 16), "image_shift": 1}
CHUNKS = {**SMALL, "horizon": HORIZON, "num_obs": 2, "num_executed": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "bc": {**SMALL, "units": 32},
    "act": {**CHUNKS, "num_obs": 1, "size": 32, "units": 64, "layers": 1, "dropout": 0.0, "ensemble_rate": None},
    "diffusion_policy": {**CHUNKS, "mlp_units": 64, "mlp_blocks": 1},
    "diffusion_policy:unet": {**CHUNKS, "unet_widths": (16, 32)},
    "flow_policy": {**CHUNKS, "mlp_units": 64, "mlp_blocks": 1},
    "vla": {**CHUNKS, "num_obs": 1, "size": 32, "units": 64, "layers": 1, "head": "regression"},
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A family, and what it observes."""

    family: str
    obs: str

    def model(self, *, moved: bool = False, **settings: Any) -> Any:
        """Build the model; `moved` takes it from where gradients are zero."""
        torch.manual_seed(0)
        model = create_model(
            self.family,
            obs_shape=OBS_SHAPES[self.obs],
            action_dim=2,
            action_type="continuous",
            **{**FAMILIES[self.family], **settings},
        )
        if moved:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.05 * torch.randn_like(parameter))
            if self.family != "bc":
                model.fit(self.buffer().statistics())
        return model.train()

    def observe(self, phases: np.ndarray) -> Any:
        images = np.zeros((PHASES, SIZE, SIZE, 1), np.uint8)
        for phase in range(PHASES):
            images[phase, 5 * phase : 5 * phase + 5] = 255
        columns = {
            "vector": np.eye(PHASES, dtype=np.float32)[phases],
            "image": images[phases],
            "language": WORDS[phases],
            "number": phases.astype(np.float32),
        }
        shapes = OBS_SHAPES[self.obs]
        return {name: columns[name] for name in shapes} if isinstance(shapes, dict) else columns[self.obs]

    def buffer(self) -> ReplayBuffer:
        buffer = ReplayBuffer(1000, OBS_SHAPES[self.obs], 2, action_sizes=())
        for start in range(12):
            phases = (start + np.arange(STEPS)) % PHASES
            buffer.add_episode(self.observe(phases), ACTIONS[phases], np.zeros(STEPS), truncated=True, terminated=False)
        return buffer

    def batch(self, model: Model, num: int = 32) -> Batch:
        return self.buffer().sample(num, HORIZON, windows=model.windows)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=OBS_SHAPES)
def case(request: pytest.FixtureRequest, family: str) -> Case:
    return Case(family, request.param)


def tensors(obs: Any) -> list[Tensor]:
    return list(obs.values()) if isinstance(obs, dict) else [obs]


def as_tensors(obs: Any) -> Any:
    return (
        {key: torch.as_tensor(value) for key, value in obs.items()} if isinstance(obs, dict) else torch.as_tensor(obs)
    )


def loss_and_gradients(model: Model, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    model.zero_grad()
    torch.manual_seed(0)
    result = model.compute_loss(batch)
    result["loss"].backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {name: value.detach() for name, value in result.items()}, grads


def test_the_loss_is_finite_and_reaches_every_parameter(case: Case):
    model = case.model(moved=True)
    assert isinstance(model, Policy)
    assert isinstance(model, Trainable)
    result, grads = loss_and_gradients(model, case.batch(model))
    assert all(value.isfinite() for value in result.values())
    for name, _ in model.named_parameters():
        assert name in grads, name
        assert grads[name].isfinite().all(), name
        assert grads[name].abs().sum() > 0, name


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -1e30])
def test_padding_changes_nothing(case: Case, garbage: float):
    model = case.model(moved=True)
    batch = case.batch(model)
    steps = batch.step_mask
    seen = batch.obs_mask[:, : tensors(batch.obs)[0].shape[1]]
    assert 0 < steps.sum() < steps.numel(), "the windows must have padding"
    expected, expected_grads = loss_and_gradients(model, batch)
    batch.actions[~steps] = garbage
    batch.rewards[~steps] = garbage
    batch.terminations[~steps] = True
    for obs in tensors(batch.obs):
        obs[~seen] = garbage if obs.is_floating_point() else 200
    result, grads = loss_and_gradients(case.model(moved=True), batch)
    assert all(torch.equal(result[name], value) for name, value in expected.items())
    assert all(torch.equal(grads[name], grad) for name, grad in expected_grads.items())


def test_saving_and_loading_gives_the_same_policy(case: Case, tmp_path: Path):
    model = case.model(moved=True)
    model.save_pretrained(tmp_path / "model")
    loaded: Any = load_model(tmp_path / "model")
    obs = as_tensors(case.observe(np.arange(PHASES)))
    expected, _ = model.act(obs, deterministic=True)
    torch.manual_seed(1)
    found, _ = loaded.act(obs, deterministic=True)
    assert torch.equal(found, expected)
    assert model.training


@pytest.mark.parametrize("name", ["bc", "act", "diffusion_policy", "flow_policy", "vla"])
def test_it_does_in_an_episode_what_was_demonstrated(name: str):
    """Three environments at other phases, for longer than a chunk; another row's action would be 0.9 away."""
    case = Case(name, "all" if name in ("bc", "vla") else "vector")
    model = case.model()
    config = TrainingConfig(
        total_steps=400 if name == "diffusion_policy" else 150,
        batch_size=32,
        sequence_length=HORIZON,
        learning_rate=1e-2 if case.family == "bc" else 3e-3,
        schedule="linear",
        warmup_steps=20,
        seed=0,
        device="cpu",
    )
    Trainer(model, config).train(case.buffer())
    state, errors = None, []
    for step in range(STEPS - 1):
        phases = (np.arange(PHASES) + step) % PHASES
        actions, state = model.act(as_tensors(case.observe(phases)), state, deterministic=True)
        errors.append(np.abs(actions.numpy() - ACTIONS[phases]).mean())
    assert np.mean(errors) < 0.3, errors


def test_environments_do_not_see_each_other(family: str):
    """Episodes that begin at other times act as each would alone."""
    case = Case(family, "vector")
    model = case.model(moved=True, **({"ensemble_rate": 0.1} if family == "act" else {}))
    generator = torch.Generator().manual_seed(0)
    obs = torch.randn(6, 2, PHASES, generator=generator)  # [T, N, *obs]
    begins = torch.tensor([[True, True], [False, False], [False, False], [False, True], [False, False], [False, False]])
    state, together = None, []
    for step in range(6):
        actions, state = model.act(obs[step], state, is_first=begins[step], deterministic=True)
        together.append(actions)
    for place, starts in ((0, [0]), (1, [0, 3])):
        alone = None
        for step in range(6):
            alone = None if step in starts else alone
            action, alone = model.act(obs[step, place : place + 1], alone, deterministic=True)
            assert torch.allclose(action[0], together[step][place], atol=1e-5), (place, step)


def test_predictions_of_one_and_of_many(case: Case):
    model = case.model(moved=True)
    many = case.observe(np.arange(PHASES))
    one = {key: value[1] for key, value in many.items()} if isinstance(many, dict) else many[1]
    actions = predict(model, many)
    assert isinstance(actions, np.ndarray)
    assert actions.shape == (PHASES, 2)
    np.testing.assert_allclose(predict(model, one), actions[1], atol=1e-5)
    assert torch.allclose(torch.as_tensor(predict(model, as_tensors(many))), torch.from_numpy(actions))
    assert model.training


def test_predictions_of_views_and_of_lists():
    model = create_model("bc", obs_shape={"a": (2,), "b": ()}, action_dim=2, action_type="continuous")
    a, b = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], np.float32), np.array([1.0, 2.0, 3.0], np.float32)
    expected = predict(model, {"a": a, "b": b})
    assert isinstance(expected, np.ndarray)
    turned = predict(model, {"a": a[::-1], "b": b[::-1]})
    assert np.array_equal(turned, expected[::-1])
    listed = predict(model, {"a": a.tolist(), "b": b.tolist()})  # type: ignore[dict-item]
    assert isinstance(listed, np.ndarray)
    assert np.array_equal(listed, expected)
