"""Models by name, of Worldline and of users, and back from checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from simscaleai.models import ImitationModel, ModelRegistry
from simscaleai.models.registry import describe
from simscaleai.models.saved import load_trained
from simscaleai.training.data.dataset import DummyTrajectoryDataset
from simscaleai.training.trainer import TrainConfig, Trainer
from worldline.errors import ConfigError, DataError, FileError


@pytest.fixture(autouse=True)
def _no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelRegistry, "_registered", {})


class Own(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(20, width)

    def forward(self, batch: Any) -> Any:
        return {"loss": self.layer(batch["observations"]["state"]).square().mean()}


def test_the_names():
    assert ModelRegistry.list() == ["bc", "act", "diffusion_policy", "flow_policy", "vla"]
    assert all(describe(name).endswith(".") for name in ModelRegistry.list())


def test_users_models():
    ModelRegistry.register("own")(Own)
    ModelRegistry.register("own", Own)  # again: a module may be imported twice
    assert "own" in ModelRegistry.list()
    model = ModelRegistry.create("own", width=5)
    assert isinstance(model, Own)
    assert model.layer.out_features == 5
    with pytest.raises(ConfigError, match="'own' already"):
        ModelRegistry.register("own", lambda: Own())
    with pytest.raises(ConfigError, match="'bc' already"):
        ModelRegistry.register("bc", Own)


def test_the_documented_arguments():
    model = ModelRegistry.create("bc", state_dim=20, action_dim=4, hidden_dim=64, n_layers=3)
    assert isinstance(model, ImitationModel)
    assert (model.policy.config.units, model.policy.config.layers) == (64, 3)
    assert (model.obs_shapes, model.policy.config.action_type) == ({"state": (20,)}, "continuous")


def test_what_a_policy_observes():
    def shapes(name: str, **kwargs: Any) -> Any:
        return ModelRegistry.create(name, action_dim=4, **kwargs).obs_shapes

    assert shapes("vla", state_dim=3) == {"state": (3,), "image": (3, 128, 128), "language": (64,)} | {}
    assert shapes("vla", state_dim=3, image_size=0, language_length=0) == {"state": (3,)}
    assert shapes("bc", image_size=32) == {"image": (3, 32, 32)}
    assert shapes("act", image_size={"top": 32, "hand": (32, 32)}) == {"top": (3, 32, 32), "hand": (3, 32, 32)}


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("bcc", {}, "Did you mean 'bc'"),
        ("bc", {"state_dim": 3, "action_dim": 2, "hiden_dim": 3}, "hiden_dim"),
        ("bc", {"action_dim": 2}, "would observe nothing"),
        ("bc", {"action_dim": 2, "image_size": (64, 64, 3)}, r"'image' must be one number or \(height, width\)"),
        ("act", {"action_dim": 2, "image_size": {"top": "64"}}, "image_size of 'top'"),
        ("act", {"action_dim": 2, "image_size": -3}, "got -3"),
    ],
)
def test_mistakes_are_named(name: str, kwargs: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        ModelRegistry.create(name, **kwargs)


def trained(folder: Path, name: str, **kwargs: Any) -> nn.Module:
    config = TrainConfig(
        model_name=name, model_kwargs=kwargs, max_steps=2, device="cpu", checkpoint_dir=str(folder), use_amp=False
    )
    model = ModelRegistry.create(name, **kwargs)
    Trainer(model, DataLoader(DummyTrajectoryDataset(20), batch_size=4), config).train()
    return model


def test_a_trained_model_comes_back_with_its_statistics(tmp_path: Path):
    model = trained(tmp_path, "act", state_dim=20, action_dim=4, hidden_dim=16, n_layers=1)
    loaded = load_trained(tmp_path / "final.pt", device="cpu")
    assert not loaded.training
    obs = torch.randn(3, 20)
    assert torch.equal(loaded.predict(obs), model.predict(obs))  # type: ignore[operator]
    assert loaded.is_fitted


@pytest.mark.parametrize("name", ["bc", "flow_policy"])
def test_checkpoints_say_how_their_model_is_built_where_the_settings_do_not(name: str, tmp_path: Path):
    """As the document's own example trains: a model is created, and the settings do not speak of it."""
    model = ModelRegistry.create(name, state_dim=20, action_dim=4, hidden_dim=16, n_layers=1)
    config = TrainConfig(max_steps=2, device="cpu", checkpoint_dir=str(tmp_path))
    Trainer(model, DataLoader(DummyTrajectoryDataset(20), batch_size=4), config).train()
    obs = torch.randn(3, 20)
    assert torch.equal(load_trained(tmp_path, device="cpu").predict(obs), model.predict(obs))  # type: ignore[operator]


def test_arguments_that_no_file_can_hold_are_no_reason_not_to_train(tmp_path: Path):
    model = ModelRegistry.create("bc", state_dim=20, action_dim=4, state_keys=dict.fromkeys(["state"]).keys())
    config = TrainConfig(max_steps=1, device="cpu", checkpoint_dir=str(tmp_path))
    Trainer(model, DataLoader(DummyTrajectoryDataset(20), batch_size=4), config).train()
    with pytest.raises(ConfigError, match="does not say how its model is built"):
        load_trained(tmp_path, device="cpu")


def test_a_registered_model_comes_back(tmp_path: Path):
    ModelRegistry.register("own", Own)
    model = trained(tmp_path, "own", width=2)
    loaded = load_trained(tmp_path / "final.pt", device="cpu")
    assert torch.equal(loaded.layer.weight, model.layer.weight)  # type: ignore[union-attr]


def test_a_checkpoint_that_claims_too_much_is_refused_before_memory_is_taken(tmp_path: Path):
    trained(tmp_path, "bc", state_dim=20, action_dim=4, hidden_dim=16, n_layers=1)
    document = torch.load(tmp_path / "final.pt", weights_only=True)
    for changed, error, message in (
        ({"hidden_dim": 1 << 15, "n_layers": 60, "state_dim": 20, "action_dim": 4}, DataError, "parameters|lacks"),
        ({"hidden_dim": 1 << 15, "n_layers": 1, "state_dim": 20, "action_dim": 4}, DataError, "shape"),
        ({"state_dim": 20}, ConfigError, "does not say how its model is built"),
        ({"state_dim": 20, "action_dim": 4, "evil": 1}, ConfigError, "evil"),
    ):
        document["config"]["model_kwargs"] = changed
        torch.save(document, tmp_path / "other.pt")
        with pytest.raises(error, match=message):
            load_trained(tmp_path / "other.pt", device="cpu")
    document["model_state_dict"] = [1, 2]
    torch.save(document, tmp_path / "other.pt")
    with pytest.raises(FileError, match="no weights by name"):
        load_trained(tmp_path / "other.pt", device="cpu")
