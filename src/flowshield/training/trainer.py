"""Trainer: agents and shields from a configuration, on Worldline's trainer."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from flowshield.models.agent import UDRLAgent, agent_settings
from flowshield.models.shields import BaseShield, load_shield, shield_settings
from flowshield.training.config import ShieldSettings, TrainerConfig, groups, read_config
from flowshield.training.dataset import TrajectoryDataset
from worldline.cli import runs
from worldline.cli.train import TrainingRun
from worldline.config import to_dict
from worldline.data.buffer import ReplayBuffer
from worldline.errors import ConfigError, DataError, nearest
from worldline.files import set_aside
from worldline.training.config import TrainingConfig

_AGENT_EPOCHS, _SHIELD_EPOCHS = 200, 100
_LINES_PER_EPOCH = 10  # of the log


class Trainer:
    """Trains a `UDRLAgent` and a shield.

    Each of them is a run of Worldline's in a folder of its own within `log_dir`: `udrl`, `quantile`, `diffusion` or
    `flow_matching`, with `config.yaml`, `metrics.jsonl`, TensorBoard's files, `checkpoints/` and `final/`. A run that
    was killed goes on from its newest checkpoint when it is asked for again with the same settings and data, and one
    that is complete is read and not repeated. What other settings or other data have left there is moved aside.

    Args:
        config: A `DictConfig`, a dict or a dataclass; `flowshield.training.config` has the keys. Its `defaults` list is
            resolved here, where Hydra has not done so already.

    Raises:
        ConfigError: An unknown group, option or key, with the nearest known one; or an impossible value.
    """

    def __init__(self, config: Any) -> None:
        self.config: TrainerConfig = read_config(config)
        self.device = _available(self.config.device)

    def train_udrl(self, dataset: TrajectoryDataset, n_epochs: int | None = None) -> UDRLAgent:
        """Train an agent on all episodes, and return it.

        Args:
            dataset: What to learn from.
            n_epochs: An epoch draws as many rows as the data has; None means those of the configuration, or 200.

        Raises:
            DataError: The data is not that of the configured environment.
        """
        self._check(dataset)
        model = self.config.model
        settings = agent_settings(hidden_dim=model.hidden_dim, n_layers=model.n_layers, activation=model.activation)
        epochs = n_epochs or self.config.n_epochs or _AGENT_EPOCHS
        final = self._run("udrl", "udrl", settings, dataset, dataset.buffer, epochs)
        return UDRLAgent.load(final, device=self.device)

    def train_shield(
        self, dataset: TrajectoryDataset, shield_type: str | None = None, n_epochs: int | None = None
    ) -> BaseShield:
        """Train a shield on (state, command) pairs, calibrate it with episodes that were held out, and return it.

        Where there are too few episodes for that, a warning says so, and the shield has no threshold yet.

        Args:
            dataset: What to learn from.
            shield_type: "quantile", "diffusion" or "flow_matching"; None means that of the configuration.
            n_epochs: See `train_udrl`; None means those of the configuration, or 100.

        Raises:
            ConfigError: No such shield; the message has the nearest one.
            DataError: The data is not that of the configured environment.
        """
        self._check(dataset)
        chosen = self._shield(shield_type)
        further = {key: value for key, value in to_dict(chosen).items() if key not in ("name", "alpha", "held_out")}
        epochs = n_epochs or self.config.n_epochs or _SHIELD_EPOCHS
        learnt, held_out = _divided(dataset.buffer, chosen.held_out, seed=self.config.seed)
        settings = shield_settings(chosen.name, **further)
        final = self._run(chosen.name, f"{chosen.name}_shield", settings, dataset, learnt, epochs)
        shield = load_shield(final, device=self.device)
        try:
            if held_out is None:
                raise DataError(f"There are {dataset.buffer.num_episodes} episodes, of which none can be held out.")
            shield.calibrate(held_out, chosen.alpha, seed=self.config.seed)
        except DataError as error:
            warnings.warn(f"The shield has no threshold yet: {error} Collect more episodes.", stacklevel=2)
        else:
            shield.save(final)
        return shield

    def train(
        self, dataset: TrajectoryDataset, train_udrl: bool = True, train_shield: bool = True
    ) -> tuple[UDRLAgent | None, BaseShield | None]:
        """Train the agent and the configured shield, and return both; None for what was not asked for."""
        agent = self.train_udrl(dataset) if train_udrl else None
        shield = self.train_shield(dataset) if train_shield else None
        return agent, shield

    def _check(self, dataset: TrajectoryDataset) -> None:
        env = self.config.env
        for name, expected in (("state_dim", env.state_dim), ("action_dim", env.action_dim)):
            found = getattr(dataset, name)
            if expected is not None and found != expected:
                raise DataError(
                    f"The data has {name} {found}, but {env.name} has {expected}. Choose the environment of the data "
                    f"in defaults (env: NAME), or set env.{name}."
                )

    def _shield(self, shield_type: str | None) -> ShieldSettings:
        if shield_type is None or shield_type == self.config.shield.name:
            return self.config.shield
        options: Mapping[str, ShieldSettings] = groups()["shield"]
        if shield_type not in options:
            raise ConfigError(f"No shield is called {shield_type!r}. {nearest(shield_type, options)}")
        return options[shield_type]

    def _run(
        self,
        name: str,
        model: str,
        settings: Mapping[str, Any],
        dataset: TrajectoryDataset,
        buffer: ReplayBuffer,
        num_epochs: int,
    ) -> Path:
        """Train a model of Worldline's in a folder, or go on with that, and return where the final one is."""
        config = self.config
        epoch = math.ceil(buffer.num_transitions / config.batch_size)  # steps
        run = TrainingRun(
            model=model,
            settings=settings,
            training=TrainingConfig(
                total_steps=num_epochs * epoch,
                batch_size=config.batch_size,
                sequence_length=1,
                learning_rate=config.learning_rate,
                log_interval=max(1, epoch // _LINES_PER_EPOCH),
                save_interval=config.checkpoint_every * epoch,
                device=self.device,
                seed=config.seed,
            ),
            data=_described(dataset),
            out=Path(config.log_dir) / name,
            command="flowshield.training.Trainer",
            num_threads=0,
        )
        _make_room(run, buffer)
        built, _ = run.begin(buffer, resume=True)
        run.train(built, buffer)
        return run.out / runs.FINAL


def _make_room(run: TrainingRun, buffer: ReplayBuffer) -> None:
    """Move what another run has left in the folder aside."""
    if not (run.out / runs.CONFIG).is_file():
        return
    saved = runs.read_config(run.out / runs.CONFIG, runs.RunConfig)
    _, asked = run.build(buffer)
    if runs.differences(saved, asked) or runs.steps_done(run.out) > run.training.total_steps:
        left = [path for path in run.out.iterdir() if not path.name.startswith(("superseded_", "."))]
        folder = set_aside(sorted(left))
        warnings.warn(f"{run.out} holds a run with other settings or data. It is now in {folder}.", stacklevel=4)


def _divided(buffer: ReplayBuffer, held_out: float, *, seed: int) -> tuple[ReplayBuffer, ReplayBuffer | None]:
    if buffer.num_episodes < 2:
        return buffer, None
    return buffer.split(held_out, seed=seed)


def _described(dataset: TrajectoryDataset) -> runs.DataFile:
    """Return what data in memory is recognised by."""
    digest = hashlib.sha256()
    columns = (dataset.states, dataset.actions, dataset.rewards, dataset.dones)
    for column in columns:
        digest.update(column.tobytes())
    return runs.DataFile(
        path="(in memory)",
        size=sum(column.nbytes for column in columns),
        sha256=digest.hexdigest(),
        num_episodes=dataset.buffer.num_episodes,
        num_transitions=len(dataset),
    )


def _available(device: str) -> str:
    """Return the device, or the CPU where it is CUDA and there is none."""
    if device.partition(":")[0] == "cuda" and not torch.cuda.is_available():
        warnings.warn(f"device is {device!r}, but there is no CUDA here: the CPU is used.", stacklevel=3)
        return "cpu"
    return device
