"""Settings of `Trainer`, and how a configuration as Hydra's files have it becomes them.

`defaults` names an option of each group: `env` (lunarlander, highway, and what `register_env` added), `model` (udrl)
and `shield` (quantile, diffusion, flow_matching). The options are the dataclasses below, and a mapping `env`, `model`
or `shield` changes settings of the chosen one. Nothing in a configuration can name code: there is no `_target_`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from flowshield.envs import list_envs
from worldline.config import from_dict, to_dict
from worldline.errors import ConfigError, missing_package, nearest, shown


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvSettings:
    """What the data is expected to come from."""

    name: str = "lunarlander"
    state_dim: int | None = None  # checked against the data, where it is given
    action_dim: int | None = None
    max_episode_steps: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Of a `UDRLAgent`."""

    name: str = "udrl"
    hidden_dim: int = 256
    n_layers: int = 4
    activation: str = "silu"


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantileSettings:
    """Of a `QuantileShield`, and how it is calibrated."""

    name: str = "quantile"
    hidden_dim: int = 256
    n_layers: int = 4
    tau: float = 0.9
    alpha: float = 0.05  # rate of false alarms
    held_out: float = 0.2  # share of the episodes that the shield is calibrated with, and not trained on


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionSettings:
    """Of a `DiffusionShield`, and how it is calibrated."""

    name: str = "diffusion"
    hidden_dim: int = 256
    n_layers: int = 4
    n_timesteps: int = 1000
    beta_schedule: str = "linear"
    alpha: float = 0.05
    held_out: float = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowMatchingSettings:
    """Of a `FlowMatchingShield`, and how it is calibrated."""

    name: str = "flow_matching"
    hidden_dim: int = 256
    n_layers: int = 4
    time_embed_dim: int = 128
    sigma_min: float = 1e-4
    alpha: float = 0.05
    held_out: float = 0.2


ShieldSettings = QuantileSettings | DiffusionSettings | FlowMatchingSettings

_ENVS = {
    "lunarlander": EnvSettings(name="lunarlander", state_dim=8, action_dim=2, max_episode_steps=1000),
    "highway": EnvSettings(name="highway", state_dim=25, action_dim=2, max_episode_steps=40),
}
_MODELS = {"udrl": ModelSettings()}
_SHIELDS: dict[str, ShieldSettings] = {
    "quantile": QuantileSettings(),
    "diffusion": DiffusionSettings(),
    "flow_matching": FlowMatchingSettings(),
}
_GROUPS = ("env", "model", "shield")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Settings of `Trainer`, by the names of `configs/train.yaml`."""

    env: EnvSettings = _ENVS["lunarlander"]
    model: ModelSettings = _MODELS["udrl"]
    shield: ShieldSettings = _SHIELDS["flow_matching"]
    seed: int = 42
    n_epochs: int | None = None  # None: 200 of the agent, 100 of the shield; an epoch is as many rows as the data has
    batch_size: int = 256
    learning_rate: float = 1e-4
    log_dir: str = "logs/"  # a folder for each run within it: logs, checkpoints and the final model
    checkpoint_every: int = 10  # epochs between two checkpoints
    device: str = "auto"  # "cuda" falls back to the CPU, with a warning
    num_workers: int = 0  # not needed: a batch is gathered at once, without processes

    def __post_init__(self) -> None:
        for name in ("n_epochs", "batch_size", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1; got {value}.")
        if self.num_workers < 0:
            raise ConfigError(f"num_workers must be at least 0; got {self.num_workers}.")


def read_config(config: Any) -> TrainerConfig:
    """Return the settings that a `DictConfig`, a dict or a dataclass holds.

    Raises:
        ConfigError: An unknown group, option or key, with the nearest known one; or an impossible value.
    """
    if isinstance(config, TrainerConfig):
        return config
    if isinstance(config, str | os.PathLike):
        raise ConfigError(f"Trainer takes settings, not a path. Pass OmegaConf.load({os.fspath(config)!r}).")
    values = plain(config)
    if not isinstance(values, dict):
        raise ConfigError(f"Trainer takes a DictConfig, a dict or a dataclass; got {shown(config)}.")
    _check_no_target(values)
    values.pop("hydra", None)  # Hydra's own
    chosen = _chosen(values.pop("defaults", []))
    for group in _GROUPS:
        values[group] = _option(group, chosen.get(group), values.get(group))
    return from_dict(TrainerConfig, values, where="The configuration")


def groups() -> dict[str, dict[str, Any]]:
    """Return the options of each group: name -> settings."""
    envs = {name: EnvSettings(name=name) for name in list_envs()} | _ENVS
    return {"env": dict(envs), "model": dict(_MODELS), "shield": dict(_SHIELDS)}


def register_groups() -> None:
    """Tell Hydra of the groups, so that `defaults` of a configuration file finds them; call it before `hydra.main`.

    Raises:
        MissingPackageError: Hydra is not installed.
    """
    try:
        from hydra.core.config_store import ConfigStore
    except ImportError as error:
        raise missing_package("hydra-core", "flowshield", "register_groups()") from error
    store = ConfigStore.instance()
    for group, options in groups().items():
        for name, settings in options.items():
            store.store(group=group, name=name, node=to_dict(settings))


def plain(value: Any) -> Any:
    """Return settings as dicts, lists and plain values: of a `DictConfig` (interpolated), a dict or a dataclass."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(value[key]) for key in value}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(item) for item in value]
    return value


def _chosen(defaults: Any) -> dict[str, str]:
    """Return the option of each group that a `defaults` list names."""
    if not isinstance(defaults, list):
        raise ConfigError(f"defaults must be a list such as [{{env: lunarlander}}]; got {shown(defaults)}.")
    found: dict[str, str] = {}
    for item in defaults:
        if item == "_self_":
            continue
        if not isinstance(item, dict) or len(item) != 1:
            raise ConfigError(f"defaults has {shown(item)}; expected entries such as {{env: lunarlander}}.")
        ((group, option),) = item.items()
        group = group.removeprefix("override ").removeprefix("/")
        if group.startswith("hydra"):
            continue
        if group not in _GROUPS:
            raise ConfigError(f"defaults names the group {shown(group)}. {nearest(group, _GROUPS)}")
        found[group] = option
    return found


def _option(group: str, chosen: Any, changes: Any) -> Any:
    """Return the settings of a group: those of the chosen option with changes."""
    options = groups()[group]
    if isinstance(changes, str):
        chosen, changes = changes, None
    if changes is not None and not isinstance(changes, dict):
        raise ConfigError(f"{group} must be a name or settings; got {shown(changes)}.")
    changes = changes or {}
    name = changes.get("name", chosen)
    if name is None:
        name = to_dict(getattr(TrainerConfig(), group))["name"]
    if name not in options:
        raise ConfigError(f"{group} has no option {shown(name)}. {nearest(str(name), options)}")
    settings = options[name]
    return from_dict(type(settings), {**to_dict(settings), **changes}, where=group)


def _check_no_target(value: Any, where: str = "") -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if key.startswith("_target_"):
                raise ConfigError(
                    f"{where}{key} names code, which a configuration cannot do here. Choose among the groups' options."
                )
            _check_no_target(item, f"{where}{key}.")
    elif isinstance(value, list):
        for item in value:
            _check_no_target(item, where)
