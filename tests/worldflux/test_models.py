from __future__ import annotations

import copy
import io
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_family
import worldline
from tiny_family import Tiny, make_batch
from worldflux import AliasedWorldModel, create_world_model, get_model_info, list_models
from worldline import registry
from worldline.errors import ConfigError, FileError


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tiny_family", tiny_family)
    monkeypatch.setattr(registry, "FAMILIES", (*registry.FAMILIES, tiny_family.FAMILY))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model() -> AliasedWorldModel:
    torch.manual_seed(0)
    return create_world_model("tiny:size1m", obs_shape=(4,), action_dim=2)


def test_loss_is_compute_loss(model: AliasedWorldModel):
    batch = make_batch()
    assert torch.equal(model.loss(batch)["loss"], model.compute_loss(batch)["loss"])


def test_rollout_is_imagine(model: AliasedWorldModel):
    state, actions = model.encode(torch.randn(3, 4)), torch.randn(5, 3, 2)
    assert torch.equal(model.rollout(state, actions).rewards, model.imagine(state, actions).rewards)


def test_update_is_observe(model: AliasedWorldModel):
    batch = make_batch()
    assert torch.equal(model.update(batch).latent, model.observe(batch).latent)


def test_transition_is_one_imagined_step(model: AliasedWorldModel):
    state, actions = model.encode(torch.randn(3, 4)), torch.randn(2, 3, 2)
    imagined = model.imagine(state, actions).states.latent  # [2, 3, width]
    first = model.transition(state, actions[0])
    assert torch.equal(first.latent, imagined[0])
    assert torch.equal(model.transition(first, actions[1]).latent, imagined[1])


def test_the_core_has_no_aliases():
    core = worldline.create_model("tiny", obs_shape=(4,), action_dim=2)
    with pytest.raises(AttributeError):
        core.rollout  # noqa: B018


def test_the_aliased_model_is_one_of_its_family(model: AliasedWorldModel):
    assert isinstance(model, Tiny)
    assert type(model).__name__ == "Tiny"
    again = create_world_model("tiny:size1m", obs_shape=(4,), action_dim=2)
    assert type(again) is type(model)


def through_torch(model: AliasedWorldModel) -> AliasedWorldModel:
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, through_torch, *(lambda m, p=p: pickle.loads(pickle.dumps(m, p)) for p in range(6))],  # noqa: S301
)
def test_copies_and_pickles(model: AliasedWorldModel, copied: Callable[[AliasedWorldModel], AliasedWorldModel]):
    model.mark = "kept"
    model.eval()
    again = copied(model)
    assert type(again) is type(model)
    assert (again.mark, again.training, again.config) == ("kept", False, model.config)
    assert again.encoder.weight is not model.encoder.weight
    assert torch.equal(again.loss(make_batch())["loss"], model.loss(make_batch())["loss"])


def test_another_process_can_read_a_pickle(model: AliasedWorldModel):
    """There the class has not been made yet."""
    dreamer = create_world_model("dreamerv3:size1m", obs_shape=(4,), action_dim=2)
    code = "import pickle, sys; print(type(pickle.load(sys.stdin.buffer)).rollout)"
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(dreamer), capture_output=True, check=True)
    assert b"AliasedWorldModel.rollout" in done.stdout


@pytest.mark.parametrize(("settings", "action_type"), [({}, "continuous"), ({"action_dim": 2}, "discrete")])
def test_one_number_is_a_continuous_action(settings: dict[str, Any], action_type: str):
    model = create_world_model("dreamerv3:size1m", **{"obs_shape": (4,), "action_dim": 1, **settings})
    assert model.config.action_type == action_type
    model.save_pretrained("saved")
    assert create_world_model("saved", action_dim=model.config.action_dim).config == model.config


def test_one_number_that_is_called_discrete_is_refused():
    with pytest.raises(ConfigError, match="at least 2 choices"):
        create_world_model("dreamerv3:size1m", obs_shape=(4,), action_dim=1, action_type="discrete")
    assert get_model_info("dreamerv3:size1m", action_dim=1)["num_parameters"] > 0


def test_saved_models_know_nothing_of_the_front_door(model: AliasedWorldModel):
    model.save_pretrained("saved")
    assert json.loads(Path("saved/config.json").read_text())["family"] == "tiny"
    assert type(worldline.load_model("saved")) is Tiny
    loaded = create_world_model("./saved")
    assert torch.equal(loaded.loss(make_batch())["loss"], model.loss(make_batch())["loss"])


@pytest.mark.parametrize(
    ("name", "width"), [("tiny:size1m", 4), ("tiny", 16), ("wee", 16), ("wee-small", 4), ("tiny:small", 4)]
)
def test_ids_and_aliases(name: str, width: int):
    assert create_world_model(name, obs_shape=(4,), action_dim=2).config.width == width


@pytest.mark.parametrize("name", ["dreamer", "dreamerv3", "dreamer-small", "dreamerv3:size12m", "dreamerv3:12m"])
def test_the_documents_names_for_dreamer(name: str):
    assert get_model_info(name)["name"] == "dreamerv3:size12m"


def test_config_fields_win_over_the_size():
    assert create_world_model("tiny:size1m", obs_shape=(4,), action_dim=2, width=5).config.width == 5


@pytest.mark.parametrize("name", ["tdmpc2", "tdmpc2:5m", "tdmpc2-small", "tdmpc", "td-mpc2:5m"])
def test_the_documents_names_for_tdmpc2(name: str):
    assert get_model_info(name)["name"] == "tdmpc2:5m"


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        ("dremaerv3", {}, ConfigError, r"Did you mean 'dreamerv3'\?"),
        ("tiny:size1n", {}, ConfigError, r"Did you mean 'size1m'\?"),
        ("tiny", {"widht": 3}, ConfigError, r"Did you mean 'width'\?"),
        ("tiny", {"device": "cdua"}, ConfigError, "Unknown device 'cdua'. Use 'cpu'"),
        ("./saved_modle", {}, FileError, r"no saved model at './saved_modle'. Did you mean 'saved_model'\?"),
    ],
)
def test_mistakes_give_the_nearest(name: str, settings: dict[str, object], error: type[Exception], message: str):
    create_world_model("tiny", obs_shape=(4,), action_dim=2).save_pretrained("saved_model")
    with pytest.raises(error, match=message):
        create_world_model(name, **{"obs_shape": (4,), "action_dim": 2, **settings})


def test_missing_shapes_are_named():
    with pytest.raises(ConfigError, match="tiny:size12m needs action_dim, obs_shape"):
        create_world_model("tiny")


def test_cuda_where_there_is_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match=r"'cuda' is not available here.*device='auto'"):
        create_world_model("tiny", obs_shape=(4,), action_dim=2, device="cuda")
    assert create_world_model("tiny", obs_shape=(4,), action_dim=2, device="auto").config.width == 16


def test_list_models():
    assert list_models() == worldline.list_models()
    assert {"dreamerv3:size1m", "dreamerv3:size400m", "tiny:size1m"} <= set(list_models())


def test_model_info():
    info = get_model_info("wee", obs_shape=(3,), action_dim=5)
    assert info == {
        "name": "tiny:size12m",
        "family": "tiny",
        "size": "size12m",
        "description": "Linear everything.",
        "aliases": ["wee", "tiny-small", "tiny-large"],
        "sizes": ["size1m", "size12m"],
        "settings": {"width": 16},
        # encoder 3 to 16, dynamics 21 to 16, decoder 16 to 3, reward 16 to 1, each with a bias
        "num_parameters": (3 * 16 + 16) + (21 * 16 + 16) + (16 * 3 + 3) + (16 + 1),
    }


def test_dreamer_has_the_number_of_parameters_of_the_reference():
    assert get_model_info("dreamerv3:size12m", obs_shape=(4,), action_dim=2)["num_parameters"] == 9_724_165
