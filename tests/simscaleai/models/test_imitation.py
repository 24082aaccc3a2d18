"""Policies over dicts: what they return, what they predict, and what they say is missing."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from simscaleai.models import ImitationModel, ModelRegistry
from simscaleai.training.data.dataset import DummyTrajectoryDataset
from simscaleai.training.loader import statistics_of
from worldline.errors import DataError

TINY: dict[str, dict[str, Any]] = {
    "bc": {"hidden_dim": 16, "n_layers": 1},
    "act": {"hidden_dim": 16, "n_layers": 1},
    "diffusion_policy": {"hidden_dim": 16, "n_layers": 1},
    "flow_policy": {"hidden_dim": 16, "n_layers": 1},
    "vla": {"hidden_dim": 16, "n_layers": 1, "image_size": (16, 24)},
}


def make(name: str) -> tuple[ImitationModel, dict[str, Any]]:
    """Return a model that has its statistics, and a batch of 6 samples."""
    sees = name == "vla"
    dataset = DummyTrajectoryDataset(60, include_image=sees, include_language=sees, image_size=(16, 24))
    torch.manual_seed(0)
    model = ModelRegistry.create(name, state_dim=20, action_dim=4, **TINY[name])
    assert isinstance(model, ImitationModel)
    model.fit(statistics_of(DataLoader(dataset, batch_size=6)))
    return model, default_collate([dataset[index] for index in range(6)])


def observed(batch: dict[str, Any]) -> dict[str, Any]:
    return {**batch["observations"], **({"language": batch["language"]} if "language" in batch else {})}


def row(obs: dict[str, Any], index: int) -> dict[str, Any]:
    return {key: value[index] for key, value in obs.items()}


@pytest.mark.parametrize("name", TINY)
def test_the_contract(name: str):
    model, batch = make(name)
    output = model(batch)
    assert output["loss"].shape == ()
    assert output["predicted_actions"].shape == batch["actions"].shape
    assert not output["predicted_actions"].requires_grad
    output["loss"].backward()
    assert sum(param.grad is not None for param in model.parameters()) > 3


@pytest.mark.parametrize("name", TINY)
def test_predictions_of_arrays_and_tensors_of_one_and_many(name: str):
    model, batch = make(name)
    model.train()
    obs = observed(batch)
    many = model.predict(obs)
    assert isinstance(many, torch.Tensor)
    assert torch.equal(many, model(batch)["predicted_actions"])
    arrays = {key: value if isinstance(value, list) else value.numpy() for key, value in obs.items()}
    found = model.predict(arrays)
    assert isinstance(found, np.ndarray)
    assert found.shape == (6, 4)
    one = model.predict(row(arrays, 3))
    assert one.shape == (4,)
    assert one == pytest.approx(found[3], abs=1e-5)
    assert np.abs(found).max() <= 1
    assert model.training


@pytest.mark.parametrize("name", TINY)
def test_windows_of_any_length_are_learnt_from(name: str):
    model, batch = make(name)
    for length in (1, 2, 5, 20):
        window = {
            "observations": {key: torch.stack([value] * length, 1) for key, value in batch["observations"].items()},
            "actions": torch.stack([batch["actions"]] * length, 1),
            **({"language": batch["language"]} if "language" in batch else {}),
        }
        output = model(window)
        assert torch.isfinite(output["loss"])
        assert output["loss"] > 0 or name == "bc"
        assert output["predicted_actions"].shape == (6, length, 4)


def test_what_is_not_real_teaches_nothing():
    model, batch = make("bc")
    window = {"observations": {"state": torch.stack([batch["observations"]["state"]] * 2, 1)}}
    actions = torch.stack([batch["actions"], batch["actions"] + 100], 1)
    mask = torch.tensor([[True, False]] * 6)
    expected = model(batch)["loss"].item()
    assert model({**window, "actions": actions, "mask": mask})["loss"].item() == pytest.approx(expected)


def test_images_of_either_layout_and_type_are_the_same():
    model, batch = make("vla")
    obs = observed(batch)
    expected = model.predict(obs)
    pixels = (obs["image"] * 255).round().to(torch.uint8)
    rounded = model.predict({**obs, "image": pixels})
    assert torch.allclose(rounded, expected, atol=0.05)
    assert torch.equal(model.predict({**obs, "image": pixels.movedim(1, -1)}), rounded)
    with pytest.raises(DataError, match=r"Images 'image' must be \(3, 16, 24\); got \(3, 24, 16\)"):
        model.predict({**obs, "image": pixels.transpose(2, 3)})


def test_arrays_that_are_views_or_cannot_be_written_to():
    """A camera's picture turned upside down has negative strides, and what comes from a file may be read-only."""
    model, batch = make("vla")
    obs = {name: value if isinstance(value, list) else value.numpy() for name, value in observed(batch).items()}
    turned = {**obs, "image": obs["image"][:, :, ::-1], "state": np.broadcast_to(obs["state"][0], (6, 20))}
    copies = {name: value if isinstance(value, list) else value.copy() for name, value in turned.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(model.predict(turned), model.predict(copies))


def test_instructions_as_text_and_as_bytes_are_the_same():
    model, batch = make("vla")
    obs = row(observed(batch), 0)
    text = obs["language"].encode()
    padded = np.zeros(40, dtype=np.uint8)
    padded[: len(text)] = np.frombuffer(text, dtype=np.uint8)
    assert torch.equal(model.predict(obs), model.predict({**obs, "language": padded}))
    batch["language"] = ["something else"] * 6
    other = torch.stack([model.predict({**row(observed(batch), index)}) for index in range(6)])
    assert not torch.equal(model.predict({**observed(batch), "language": [obs["language"]] * 6}), other)


def batch_of(**vectors: int) -> dict[str, Any]:
    return {
        "observations": {key: torch.rand(3, size) for key, size in vectors.items()},
        "actions": torch.rand(3, 2),
    }


def test_vectors_are_put_side_by_side_by_name():
    model = ModelRegistry.create("bc", state_dim=5, action_dim=2, normalization="symlog")
    batch = batch_of(zz=2, aa=3)
    joined = torch.cat([batch["observations"]["aa"], batch["observations"]["zz"]], -1)
    expected = ModelRegistry.create("bc", state_dim=5, action_dim=2, normalization="symlog")
    expected.load_state_dict(model.state_dict())
    assert torch.equal(model(batch)["loss"], expected({**batch, "observations": {"state": joined}})["loss"])
    assert torch.equal(model(batch)["loss"], expected({**batch, "observations": joined})["loss"])


def test_wrong_vectors_are_named():
    model = ModelRegistry.create("bc", state_dim=5, action_dim=2, normalization="symlog")
    with pytest.raises(DataError, match=r"5 numbers together; got 7: aa \[3\], bb \[4\]. Build it with state_dim=7"):
        model(batch_of(aa=3, bb=4))
    model(batch_of(aa=3, bb=2))
    with pytest.raises(DataError, match=r"Missing: bb. Not known: cc. It has learnt from aa, bb"):
        model(batch_of(aa=3, cc=2))


def test_state_keys_pass_over_what_else_there_is():
    model = ModelRegistry.create("bc", state_dim=5, state_keys=["bb", "aa"], action_dim=2, normalization="symlog")
    batch = batch_of(aa=3, bb=2, secret=4)
    loss = model(batch)["loss"]
    batch["observations"].pop("secret")
    assert torch.equal(model(batch)["loss"], loss)
    with pytest.raises(DataError, match=r"got 3: aa \[3\]"):
        model(batch_of(aa=3, secret=4))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"observations": {"state": torch.ones(2, 5)}}, '"observations" and "actions"'),
        ({"observations": {"state": torch.ones(2, 5)}, "actions": torch.ones(2)}, r"\[B, A\] or \[B, T, A\]"),
        ({"observations": {"state": torch.ones(2, 5)}, "actions": torch.ones(2, 3)}, "action_dim=3"),
    ],
)
def test_what_a_batch_needs(batch: dict[str, Any], message: str):
    model = ModelRegistry.create("bc", state_dim=5, action_dim=2, normalization="symlog")
    with pytest.raises(DataError, match=message):
        model(batch)


def test_a_missing_modality_is_named():
    model, batch = make("vla")
    obs = observed(batch)
    for key, message in (
        ("image", "images 'image'"),
        ("language", "reads instructions.*got only image, state"),
        ("state", "20 numbers"),
    ):
        with pytest.raises(DataError, match=message):
            model.predict({name: value for name, value in obs.items() if name != key})


def test_what_is_not_observed_does_not_matter_to_a_prediction():
    """Whatever comes first, and whatever shape it has."""
    rng = np.random.default_rng(0)
    obs = {"camera": rng.random((6, 8, 8, 3)), "state": rng.random((6, 20))}
    model = ModelRegistry.create("bc", state_dim=20, action_dim=4, normalization="symlog", state_keys=["state"])
    expected = model.predict({"state": obs["state"]})
    assert np.array_equal(model.predict(obs), expected)
    one = model.predict({name: value[0] for name, value in obs.items()})
    assert one == pytest.approx(expected[0], abs=1e-6)


def test_single_numbers_and_matrices_are_part_of_the_state():
    """A gripper's opening `[]` and two points `[2, 3]`, as recordings have them, beside a vector."""
    model = ModelRegistry.create("bc", state_dim=9, action_dim=2, normalization="symlog")
    rng = np.random.default_rng(0)
    obs = {"points": rng.random((5, 2, 3)), "gripper": rng.random(5), "vector": rng.random((5, 2))}
    joined = np.concatenate([obs["gripper"][:, None], obs["points"].reshape(5, 6), obs["vector"]], 1)
    expected = model.predict(joined)
    assert np.array_equal(model.predict(obs), expected)
    for number in range(5):
        one = model.predict({name: value[number] for name, value in obs.items()})
        assert one == pytest.approx(expected[number], abs=1e-6)
    tensors = {name: torch.from_numpy(value) for name, value in obs.items()}
    windows = {name: value[:, None].repeat(1, 4, *[1] * (value.ndim - 1)) for name, value in tensors.items()}
    for observations, shape in ((tensors, (5, 2)), (windows, (5, 4, 2))):
        batch = {"observations": observations, "actions": torch.zeros(shape)}
        found = model(batch)["predicted_actions"]
        assert found.shape == shape
        assert found[:, -1].numpy() == pytest.approx(expected[:, -1] if len(shape) == 2 else expected, abs=1e-6)


def test_a_single_number_alone_is_one_observation_and_a_column_of_them_several():
    model = ModelRegistry.create("bc", state_dim=1, action_dim=2, normalization="symlog")
    assert model.predict(np.zeros(1)).shape == (2,)
    assert model.predict(np.zeros((1, 1))).shape == (1, 2)
    assert model.predict({"gripper": np.float32(0.5)}).shape == (2,)
    assert model.predict({"gripper": np.zeros(5)}).shape == (5, 2)


def test_the_state_alone_stands_for_all_vectors_whatever_they_are_called():
    model = ModelRegistry.create("bc", state_dim=5, state_keys=["bb", "aa"], action_dim=2, normalization="symlog")
    state = torch.rand(3, 5)
    expected = model.predict({"aa": state[:, :2], "bb": state[:, 2:]})
    assert torch.equal(model.predict(state), expected)
    unnamed = ModelRegistry.create("bc", state_dim=5, action_dim=2, normalization="symlog")
    unnamed.predict(state)  # says nothing of the names that it will learn from
    unnamed(batch_of(aa=3, bb=2))
    assert unnamed.predict(state).shape == (3, 2)
    with pytest.raises(DataError, match="Not known: cc"):
        unnamed.predict({"aa": state[:, :3], "cc": state[:, 3:]})


def test_one_instruction_stands_for_all_observations():
    model, batch = make("vla")
    obs = {**observed(batch), "language": ["go"] * 6}
    expected = model.predict(obs)
    assert torch.equal(model.predict({**obs, "language": "go"}), expected)
    assert torch.equal(model.predict({**obs, "language": np.array(["go"] * 6)}), expected)


@pytest.mark.parametrize(
    ("language", "message"),
    [(["go"] * 5, r"Instructions are \[5\], observations \[6\]"), (None, "got NoneType"), (3, "got int")],
)
def test_instructions_that_do_not_fit_are_refused(language: Any, message: str):
    model, batch = make("vla")
    with pytest.raises(DataError, match=message):
        model.predict({**observed(batch), "language": language})
    with pytest.raises(DataError, match=r"Instructions are \[1\], observations \[\]"):
        model.predict({**row(observed(batch), 0), "language": ["go"]})


def test_observations_of_different_numbers_are_refused():
    model, batch = make("vla")
    obs = observed(batch)
    with pytest.raises(DataError, match=r"image \[6\], language \[6\], state \[4\]"):
        model.predict({**obs, "state": obs["state"][:4]})


@pytest.mark.parametrize("name", TINY)
def test_predictions_are_float32_also_under_autocast(name: str):
    model, batch = make(name)
    obs = {key: value if isinstance(value, list) else value.numpy() for key, value in observed(batch).items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.predict(obs)
        losses = model.training_losses(batch)
    assert found.dtype == np.float32
    assert found == pytest.approx(model.predict(obs), abs=0.1)
    assert losses["loss"].dtype == torch.float32


@pytest.mark.parametrize(("name", "length", "learnt"), [("act", 10, 10), ("flow_policy", 1, 1), ("flow_policy", 8, 7)])
def test_samples_too_short_for_what_is_carried_out_are_told_once(name: str, length: int, learnt: int):
    """Actions that nothing has taught are carried out all the same."""
    model, batch = make(name)
    window = {
        "observations": {"state": torch.stack([batch["observations"]["state"]] * length, 1)},
        "actions": torch.stack([batch["actions"]] * length, 1),
    }
    with pytest.warns(UserWarning, match=rf"of {length} steps teach it {learnt}\b.*windows=model.windows"):
        model(window)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(window)


@pytest.mark.parametrize(("name", "length"), [("act", 16), ("flow_policy", 9), ("bc", 1)])
def test_samples_that_are_long_enough_are_not(name: str, length: int):
    model, batch = make(name)
    window = {
        "observations": {"state": torch.stack([batch["observations"]["state"]] * length, 1)},
        "actions": torch.stack([batch["actions"]] * length, 1),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(window)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"state_dim": 7, "state_keys": ["jointpos"]}, "got 0: none"),
        ({"state_dim": 19}, r"got 20: state \[20\]. Build it with state_dim=20"),
    ],
)
def test_statistics_of_other_vectors_are_named(settings: dict[str, Any], message: str):
    model = ModelRegistry.create("bc", action_dim=4, **settings)
    assert isinstance(model, ImitationModel)
    with pytest.raises(DataError, match=message):
        model.fit(statistics_of(DataLoader(DummyTrajectoryDataset(60), batch_size=6)))
