"""Evaluation by FlowShield's names: agents with and without a shield, shields, projections.

Thresholds are the calibrated ones; a shield without one raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from flowshield.borrowed import BorrowedEnv
from flowshield.models.agent import UDRLAgent
from flowshield.models.shields import BaseShield
from worldline.batch import Obs
from worldline.episode import Array, Episode
from worldline.errors import ConfigError, DataError
from worldline.evaluation import shields as core
from worldline.evaluation.rollout import CRASHED, SUCCESS, collect_episodes
from worldline.evaluation.statistics import mean_interval95, wilson_interval
from worldline.models.commanded import CommandedPolicy
from worldline.models.shielded import ShieldedPolicy
from worldline.protocols import HasEpisodes, Policy

__all__ = ["evaluate_agent", "evaluate_projection", "evaluate_shield", "run_episode"]

Command = Sequence[float]  # (steps, return)
_LANDED = 99.0  # LunarLander pays 100 for a landing and takes as much for a crash, beside what the engines cost


def evaluate_agent(
    env: gym.Env[Any, Any],
    agent: UDRLAgent,
    shield: BaseShield | None = None,
    commands: Sequence[Command] | None = None,
    n_episodes: int = 100,
    render: bool = False,
    *,
    seed: int = 0,
) -> dict[str, float]:
    """Tell an agent commands, and return what it did, over all episodes of all commands.

    Args:
        env: Where; it stays open.
        agent: Trained.
        shield: Calibrated; it replaces each command that it flags at the beginning of an episode.
        commands: What to tell, each (steps, return); None is the most steps and the highest return of the data.
        n_episodes: Of each command; episode i of each begins with the seed `seed + i`.
        render: Watch; the environment must have been made with `render_mode="human"`.
        seed: Of the first episode.

    Returns:
        "mean_return" (and its 95% interval, "return_low" and "return_high"), "std_return", "mean_length";
        "success_rate" and "crash_rate" (with the intervals "crash_low" and "crash_high"), "timeout_rate";
        "return_error" and "length_error", the mean distance of what was done from what was told;
        "ood_detections" and "shield_activations", how many commands were flagged and how many replaced.

    Raises:
        ConfigError: There are no commands or no episodes.
        DataError: The shield was never calibrated.
    """
    told = [_most(agent)] if commands is None else [(float(one[0]), float(one[1])) for one in commands]
    if not told:
        raise ConfigError("There are no commands to tell. Pass some, such as [(200, 250)].")
    episodes: list[Episode] = []
    for command in told:
        policy = _policy(agent, command, shield)
        episodes += _episodes(env, policy, num=n_episodes, seed=seed, render=render)
    asked = np.repeat(np.asarray(told), n_episodes, axis=0)  # [N, 2]
    returns = np.array([float(episode.rewards.sum(dtype=np.float64)) for episode in episodes])
    lengths = np.array([len(episode) for episode in episodes])
    crashes, successes = [_crashed(episode) for episode in episodes], [_succeeded(episode) for episode in episodes]
    low, high = mean_interval95(returns)
    crash_low, crash_high = wilson_interval(sum(crashes), len(crashes))
    flagged, replaced = (0, 0) if shield is None else _judged(shield, episodes, asked)
    return {
        "mean_return": float(returns.mean()),
        "return_low": low,
        "return_high": high,
        "std_return": float(returns.std(ddof=1)) if len(returns) > 1 else 0.0,
        "mean_length": float(lengths.mean()),
        "success_rate": float(np.mean(successes)),
        "crash_rate": float(np.mean(crashes)),
        "crash_low": crash_low,
        "crash_high": crash_high,
        "timeout_rate": float(np.mean([episode.truncated and not episode.terminated for episode in episodes])),
        "return_error": float(np.abs(returns - asked[:, 1]).mean()),
        "length_error": float(np.abs(lengths - asked[:, 0]).mean()),
        "ood_detections": float(flagged),
        "shield_activations": float(replaced),
    }


def run_episode(
    env: gym.Env[Any, Any],
    agent: UDRLAgent,
    command: Command,
    shield: BaseShield | None = None,
    render: bool = False,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Run an episode, and return all of it.

    The arguments are those of `evaluate_agent`.

    Returns:
        "return", "length", "success", "crash"; "states" `[T, state_dim]`, "actions" `[T, action_dim]` and "rewards"
        `[T]`; and of each step: "commands", what was left to do, as a shield has it; "ood_flags", whether the shield
        flags that, and "log_probs", the log-density that it gives it (empty without a shield).
    """
    recorder = _Recorder(_policy(agent, command, shield))
    (episode,) = _episodes(env, recorder, num=1, seed=seed, render=render)
    states = torch.from_numpy(np.asarray(episode.obs))
    commands = torch.stack(recorder.commands)
    return {
        "return": float(episode.rewards.sum(dtype=np.float64)),
        "length": len(episode),
        "success": _succeeded(episode),
        "crash": _crashed(episode),
        "states": episode.obs,
        "actions": episode.actions,
        "rewards": episode.rewards,
        "commands": [(steps, left) for steps, left in commands.tolist()],
        "ood_flags": [] if shield is None else shield.is_ood(states, commands).tolist(),
        "log_probs": [] if shield is None else shield.log_prob(states, commands).tolist(),
    }


def evaluate_shield(
    shield: BaseShield, test_dataset: HasEpisodes, train_dataset: HasEpisodes | None = None, *, seed: int = 0
) -> dict[str, float]:
    """Return how often a calibrated shield flags what was possible, and how well it tells that from the impossible.

    Args:
        shield: What is evaluated.
        test_dataset: Episodes that it was neither trained nor calibrated on; one row of each is judged.
        train_dataset: What is possible is told by these and the others together.
        seed: Draws the rows, and commands that are impossible.

    Returns:
        "false_positive_rate" (and its 95% interval, "false_positive_low" and "false_positive_high"), "auc_roc",
        "fpr_at_95_tpr", "detection_rate" and "f1_score" (where half of all commands are impossible), as means over the
        kinds of impossible commands; and the first three of each kind, such as "auc_roc/return too high".
    """
    train = test_dataset if train_dataset is None else train_dataset
    result = core.evaluate_shield(shield, test_dataset, train=train, seed=seed)
    found: dict[str, float] = {"false_positive_rate": result.false_alarm_rate}
    found["false_positive_low"], found["false_positive_high"] = result.interval95
    names = {"auc_roc": "auroc", "fpr_at_95_tpr": "fpr_at_95_tpr", "detection_rate": "flagged"}
    for name, attribute in names.items():
        by_kind = {kind: getattr(detection, attribute) for kind, detection in result.detection.items()}
        found[name] = float(np.mean(list(by_kind.values())))
        found |= {f"{name}/{kind}": value for kind, value in by_kind.items()}
    found["f1_score"] = 2 * found["detection_rate"] / (1 + found["detection_rate"] + found["false_positive_rate"])
    return found


def evaluate_projection(shield: BaseShield, ood_commands: Any, states: Any) -> dict[str, float]:
    """Return where a shield projects commands `[N, 2]` in states `[N, state_dim]`.

    Returns:
        "projection_success", the share of results that pass (but for states that are flagged themselves);
        "mean_distance" from the flagged commands, in deviations of the data; "mean_log_prob" of the results; "changed",
        the share of commands that were replaced; "kept", the share of those that were fine and stayed as they were.

    Raises:
        DataError: They are not as many.
    """
    rows = core.CommandRows(states=_floats(states), commands=_floats(ood_commands))
    if isinstance(rows.states, Tensor) and len(rows.states) != len(rows):
        raise DataError(f"There are {len(rows.states)} states and {len(rows)} commands. Pass a state for each command.")
    result = core.evaluate_projection(shield, rows, scale=shield.commands.scale)
    projected = shield.project(rows.states, rows.commands)
    return {
        "projection_success": result.passing * result.horizon_valid,
        "mean_distance": result.mean_distance,
        "mean_log_prob": float(shield.log_prob(rows.states, projected).mean()),
        "changed": result.changed,
        "kept": result.kept,
    }


class _Recorder:
    """A policy of one environment that remembers what was left to do at each step."""

    def __init__(self, policy: CommandedPolicy | ShieldedPolicy) -> None:
        self._policy = policy
        self.commands: list[Tensor] = []  # each [2]

    def act(
        self, obs: Obs, state: Any = None, *, is_first: Tensor | None = None, deterministic: bool = False
    ) -> tuple[Tensor, Any]:
        actions, state = self._policy.act(obs, state, is_first=is_first, deterministic=deterministic)
        self.commands.append(state.commands[0].cpu())
        return actions, state

    def after_step(self, state: Any, rewards: Tensor) -> Any:
        return self._policy.after_step(state, rewards)


def _policy(agent: UDRLAgent, command: Command, shield: BaseShield | None) -> CommandedPolicy | ShieldedPolicy:
    policy = CommandedPolicy(agent, command)
    return policy if shield is None else ShieldedPolicy(policy, shield)


def _episodes(env: gym.Env[Any, Any], policy: Policy, *, num: int, seed: int, render: bool) -> list[Episode]:
    if render and env.render_mode != "human":
        raise ConfigError('To watch, make the environment with render_mode="human".')
    borrowed = BorrowedEnv(env)
    return collect_episodes(lambda: borrowed, policy, num_episodes=num, seed=seed, num_envs=1, deterministic=False)


def _judged(shield: BaseShield, episodes: Sequence[Episode], told: Array) -> tuple[int, int]:
    """Return how many of the commands `[N, 2]` the shield flags in the first states, and how many it replaces."""
    first = torch.from_numpy(np.stack([np.asarray(episode.obs)[0] for episode in episodes]))
    commands = torch.from_numpy(told).float()
    replaced = (shield.project(first, commands).cpu() != commands).any(1)
    return int(shield.is_ood(first, commands).sum()), int(replaced.sum())


def _succeeded(episode: Episode) -> bool:
    """Return what the environment says of success, or else whether the episode ended with a landing's reward."""
    if SUCCESS in episode.meta:
        return bool(episode.meta[SUCCESS])
    return episode.terminated and float(episode.rewards[-1]) >= _LANDED


def _crashed(episode: Episode) -> bool:
    if CRASHED in episode.meta:
        return bool(episode.meta[CRASHED])
    return episode.terminated and float(episode.rewards[-1]) <= -_LANDED


def _most(agent: UDRLAgent) -> tuple[float, float]:
    steps, most = agent.command_range[1].tolist()
    return steps, most


def _floats(values: Any) -> Tensor:
    return torch.as_tensor(np.asarray(values) if not isinstance(values, Tensor) else values).float()
