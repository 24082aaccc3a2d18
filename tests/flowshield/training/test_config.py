from __future__ import annotations

import dataclasses
import sys
from typing import Any

import pytest

from flowshield.training import TrainerConfig, register_groups
from flowshield.training.config import (
    DiffusionSettings,
    FlowMatchingSettings,
    QuantileSettings,
    groups,
    plain,
    read_config,
)
from worldline.errors import ConfigError

DEFAULTS = [{"env": "lunarlander"}, {"model": "udrl"}, {"shield": "diffusion"}]


def test_defaults_choose_options():
    config = read_config({"defaults": DEFAULTS, "seed": 3, "learning_rate": 1e-3})
    assert config == TrainerConfig(seed=3, learning_rate=1e-3, shield=DiffusionSettings())
    assert (config.env.name, config.env.state_dim, config.env.action_dim) == ("lunarlander", 8, 2)


def test_nothing_needs_to_be_said():
    assert read_config({}) == TrainerConfig()
    assert TrainerConfig().shield == FlowMatchingSettings()
    assert TrainerConfig().learning_rate == 1e-4


@pytest.mark.parametrize(
    "values",
    [
        {"defaults": DEFAULTS, "shield": {"hidden_dim": 8}},
        {"shield": {"name": "diffusion", "hidden_dim": 8}},
        {
            "defaults": ["_self_", {"/shield": "quantile"}, {"override shield": "diffusion"}],
            "shield": {"hidden_dim": 8},
        },
    ],
)
def test_a_mapping_changes_settings_of_the_chosen_option(values: dict[str, Any]):
    assert read_config(values).shield == DiffusionSettings(hidden_dim=8)


def test_as_hydra_composes_it():
    """Hydra has put the options in the places of their names, and its own section beside them."""
    values = {
        name: plain(options["quantile" if name == "shield" else next(iter(options))])
        for name, options in groups().items()
    }
    config = read_config({**values, "hydra": {"run": {"dir": "x"}}, "n_epochs": 5})
    assert config == TrainerConfig(n_epochs=5, shield=QuantileSettings())


def test_a_name_is_an_option():
    assert read_config({"shield": "quantile"}).shield == QuantileSettings()


def test_dataclasses_are_taken():
    @dataclasses.dataclass
    class Own:
        seed: int = 7
        shield: dict[str, Any] = dataclasses.field(default_factory=lambda: {"name": "quantile", "tau": 0.8})

    assert read_config(Own()) == TrainerConfig(seed=7, shield=QuantileSettings(tau=0.8))
    config = TrainerConfig(seed=1)
    assert read_config(config) is config


def test_configurations_of_omegaconf():
    omegaconf = pytest.importorskip("omegaconf")
    text = """
    defaults: [env: lunarlander, model: udrl, shield: quantile]
    model: {hidden_dim: '${shield.hidden_dim}'}
    shield: {hidden_dim: 32}
    learning_rate: 1e-4
    """
    config = read_config(omegaconf.OmegaConf.create(text))
    assert (config.model.hidden_dim, config.shield.hidden_dim) == (32, 32)
    assert config.learning_rate == 1e-4


WRONG: list[tuple[Any, str]] = [
    ({"sed": 1}, "no setting 'sed'. Did you mean 'seed'"),
    ({"shield": {"taw": 0.9, "name": "quantile"}}, "shield has no setting 'taw'. Did you mean 'tau'"),
    ({"shield": {"tau": 0.9}}, "shield has no setting 'tau'"),  # of another option
    ({"defaults": [{"shield": "quantil"}]}, "shield has no option 'quantil'. Did you mean 'quantile'"),
    ({"defaults": [{"shields": "quantile"}]}, "group 'shields'. Did you mean 'shield'"),
    ({"defaults": [{"env": "lunar"}]}, "env has no option 'lunar'. Did you mean 'lunarlander'"),
    ({"defaults": "udrl"}, "defaults must be a list"),
    ({"defaults": [3]}, "expected entries such as"),
    ({"env": 3}, "env must be a name or settings"),
    ({"seed": "many"}, "seed must be int"),
    ({"n_epochs": 0}, "n_epochs must be at least 1"),
    ({"num_workers": -1}, "num_workers must be at least 0"),
    ({"model": {"_target_": "os.system"}}, "model._target_ names code"),
    ({"list": [{"_target_": "os.system"}]}, "names code"),
    (3, "takes a DictConfig, a dict or a dataclass"),
    ("configs/train.yaml", r"Pass OmegaConf.load\('configs/train.yaml'\)"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "message"), WRONG)
def test_mistakes_are_named(values: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        read_config(values)


def test_hydra_knows_the_groups():
    hydra = pytest.importorskip("hydra")
    register_groups()
    with hydra.initialize(version_base=None):
        composed = hydra.compose(overrides=["+env=highway", "+shield=quantile", "shield.tau=0.5", "+model=udrl"])
    config = read_config(composed)
    assert (config.env.name, config.shield) == ("highway", QuantileSettings(tau=0.5))


def test_hydra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "hydra.core.config_store", None)
    with pytest.raises(ImportError, match=r"pip install 'worldline\[flowshield\]'"):
        register_groups()
