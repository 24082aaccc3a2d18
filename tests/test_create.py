from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

import tiny_family
from tiny_family import Tiny, make_batch
from worldline import registry
from worldline.create import create_adapted, create_model, list_models, load_model, saved_path
from worldline.errors import ConfigError, DataError, FileError


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # The copy that the registry imports must be the one the test compares with.
    monkeypatch.setitem(sys.modules, "tiny_family", tiny_family)
    monkeypatch.setattr(registry, "FAMILIES", (tiny_family.FAMILY,))
    monkeypatch.chdir(tmp_path)


def build(name: str = "tiny:size1m", **settings: object) -> Tiny:
    return create_model(name, **{"obs_shape": (4,), "action_dim": 2, **settings})


def test_the_size_gives_the_settings_and_keywords_win():
    assert build().config.width == 4
    assert build("tiny").config.width == 16
    assert build(width=5).config.width == 5


def test_settings_are_checked():
    with pytest.raises(ConfigError, match=r"tiny:size1m has no setting 'widht'. Did you mean 'width'\?"):
        build(widht=3)
    with pytest.raises(ConfigError, match="tiny:size1m needs action_dim, obs_shape"):
        create_model("tiny:size1m")
    with pytest.raises(ConfigError, match="width must be at least 1"):
        build(width=0)


def test_a_device_that_is_not_here_is_refused_before_anything_is_built(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match="'cuda' is not available here"):
        build(device="cuda")


def test_list_models():
    assert list_models() == ["tiny:size1m", "tiny:size12m"]


def test_a_loaded_model_computes_the_same():
    model = build()
    model.after_update()
    model.save_pretrained("saved")
    for loaded in (load_model("saved"), create_model("./saved"), create_model("saved"), create_model(Path("saved"))):
        assert isinstance(loaded, Tiny)
        assert not loaded.training
        assert loaded.num_updates == 1
        assert torch.equal(loaded.compute_loss(make_batch())["loss"], model.compute_loss(make_batch())["loss"])


def test_loading_with_settings_checks_them():
    build().save_pretrained("saved")
    assert load_model("saved", obs_shape=[4], action_dim=2).config.width == 4
    with pytest.raises(ConfigError, match="other settings than those given"):
        load_model("saved", action_dim=3)
    with pytest.raises(ConfigError, match=r"tiny has no setting 'actoin_dim'. Did you mean 'action_dim'"):
        load_model("saved", actoin_dim=2)


def test_a_folder_in_the_home_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    build().save_pretrained(tmp_path / "saved")
    assert create_model("~/saved").config.width == load_model("~/saved").config.width == 4


def test_a_folder_with_the_name_of_a_family_does_not_hide_it():
    Path("tiny").mkdir()
    assert build("tiny").config.width == 16
    build(width=3).save_pretrained("tiny")
    assert create_model("tiny").config.width == 3


def test_a_missing_path_names_the_nearest_saved_model():
    build().save_pretrained("runs/final_model")
    with pytest.raises(FileError, match=r"no saved model at './runs/final_modle'. Did you mean 'runs.final_model'\?"):
        create_model("./runs/final_modle")
    with pytest.raises(FileError, match="Give the folder of a saved model, or 'family:size'"):
        create_model("./nowhere/at/all")
    with pytest.raises(FileError, match="There is no saved model"):
        create_model(Path("tiny"))


def test_a_folder_without_a_model():
    Path("empty").mkdir()
    with pytest.raises(FileError, match=r"empty is not a saved model: it has no config.json"):
        create_model("./empty")
    with pytest.raises(FileError, match=r"it has no config.json"):
        create_model(Path("empty"))


def test_names_are_not_paths():
    assert saved_path("tiny:size1m") is None
    with pytest.raises(ConfigError, match=r"Did you mean 'tiny'\?"):
        create_model("tinny")


def edit_config(**changes: object) -> None:
    path = Path("saved/config.json")
    document = json.loads(path.read_text())
    document["config"] |= changes
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"wdith": 3},
            ConfigError,
            r"saved.config.json cannot be used: config has no setting 'wdith'. Did you mean 'width'\?",
        ),
        ({"width": "8"}, ConfigError, "width must be int"),
        ({"width": 9}, DataError, "'encoder.weight' is torch.float32 of shape"),
        ({"width": 1 << 22}, DataError, "'encoder.weight' is torch.float32 of shape"),
        ({"width": 1 << 44}, DataError, r"saved.config.json does not describe the model that was saved: .*overflow"),
        (
            {"num_layers": 10**9},
            DataError,
            r"saved.config.json does not describe .*: far more parameters than the 9 tensors",
        ),
        ({"obs_shape": [1 << 30, 1 << 10]}, DataError, "'encoder.weight' is torch.float32 of shape"),
    ],
)
def test_a_saved_configuration_that_cannot_be(changes: dict[str, object], error: type[Exception], message: str):
    """The enormous ones would take terabytes if the model were built before it is compared."""
    build().save_pretrained("saved")
    edit_config(**changes)
    with pytest.raises(error, match=message):
        load_model("saved")


def test_a_saved_family_that_is_not_installed():
    build().save_pretrained("saved")
    path = Path("saved/config.json")
    path.write_text(path.read_text().replace('"tiny"', '"tinny"'))
    with pytest.raises(ConfigError, match="No model family is called 'tinny'"):
        load_model("saved")


def test_an_adapted_model_saves_as_its_family():
    def adapt(own: type[Tiny]) -> type[Tiny]:
        return type("Adapted", (own,), {})

    adapted = create_adapted("tiny:size1m", settings={"obs_shape": (4,), "action_dim": 2}, adapt=adapt)
    adapted.save_pretrained("saved")
    assert type(load_model("saved")) is Tiny
    assert type(create_adapted("saved", settings={}, adapt=adapt)).__name__ == "Adapted"
