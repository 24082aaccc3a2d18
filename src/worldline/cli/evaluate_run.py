"""What `worldline eval` runs: the policy, those that it is held against, and what recorded episodes tell of it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from worldline.cli.collect import RANDOM, open_policy
from worldline.cli.evaluate import EvalOptions, Recording, evaluate
from worldline.cli.evaluate_commands import (
    NO_SHIELD,
    Extras,
    false_alarms,
    maps,
    obedience,
    open_shield,
    with_and_without,
)
from worldline.cli.measured import result_numbers
from worldline.cli.options import parse_env_settings, way_of_acting
from worldline.cli.paired import Paired
from worldline.cli.runs import make_folder
from worldline.data.buffer import ReplayBuffer
from worldline.envs.make import make_env
from worldline.errors import ConfigError
from worldline.evaluation.actions import action_errors
from worldline.evaluation.rollout import EvaluationResult, acts_deterministically
from worldline.models.commanded import CommandedPolicy
from worldline.models.shields import BaseShield
from worldline.protocols import Policy
from worldline.report.page import Section, Table

_MAX_RECORDED = 200  # episodes that actions are held against


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured."""

    options: EvalOptions
    name: str  # of the policy that it is about
    deterministic: bool  # whether that took its likeliest actions
    measured: Mapping[str, EvaluationResult]  # by the policy's name, on the same episodes
    recordings: Mapping[str, Recording]  # by the policy's name, without a shield first
    extras: Sequence[Extras]
    alpha: float | None  # at which the shield was calibrated for it; None: none was, or it is as it was saved

    @functools.cached_property
    def paired(self) -> Paired:
        """The policy that it is about, against each other one."""
        return Paired.of(self.measured, self.name)

    def numbers(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        options, measured = self.options, self.measured
        command = None if options.command is None else dict(zip(("steps", "return"), options.command, strict=True))
        others = {name: result_numbers(result) for name, result in measured.items() if name not in (self.name, RANDOM)}
        return {
            "model": options.model,
            "env": options.env,
            "num_episodes": options.episodes,
            "seed": options.seed,
            "deterministic": self.deterministic,
            **result_numbers(measured[self.name]),
            "random_return_mean": measured[RANDOM].mean,
            "random_success_rate": measured[RANDOM].success_rate,
            "paired": self.paired.numbers(),
            "command": command,
            **(
                {"shield": str(options.shield), "alpha": self.alpha, "without_shield": others} if options.shield else {}
            ),
            **{key: value for extra in self.extras for key, value in extra.numbers.items()},
        }


def measure(options: EvalOptions) -> Evaluation:
    """Run all episodes that the options ask for."""
    asked = way_of_acting(deterministic=options.deterministic, stochastic=options.stochastic)
    env_settings = parse_env_settings(options.env_settings)
    env = make_env(options.env, **env_settings)
    env.close()
    policy = open_policy(options.model, env, env_id=options.env, command=options.command, device=options.device)
    data = None if options.data is None else ReplayBuffer.load(options.data)
    if data is not None and data.spec != env.data_spec:
        raise ConfigError(
            f"The episodes of --data are of another environment than --env {options.env}: {data.spec}, not "
            f"{env.data_spec}. Give some that were recorded in it."
        )
    policies, name, shield, alpha = {options.model: policy}, options.model, None, options.alpha
    if options.shield is not None:
        shield, alpha = open_shield(options.shield, env, policy=policy, device=options.device, data=data, alpha=alpha)
        assert isinstance(policy, CommandedPolicy)
        policies, name = with_and_without(policy, shield), shield.family
    policies.setdefault(RANDOM, open_policy(RANDOM, env, env_id=options.env))
    run = functools.partial(
        evaluate,
        options.env,
        num_episodes=options.episodes,
        seed=options.seed,
        deterministic=asked,
        env_settings=env_settings,
    )
    if options.out is not None:  # before the episodes, which would be lost
        make_folder(options.out)
    recordings = {key: Recording(num_filmed=options.videos) for key in ([NO_SHIELD, name] if shield else [name])}
    measured = {
        key: run(actor, recording=recordings.get(key), label=f"Evaluating {key}") for key, actor in policies.items()
    }
    extras = []
    if shield is not None and options.out is not None:
        assert isinstance(policy, CommandedPolicy)
        extras.append(Extras(sections=[maps(shield, policy, recordings[name].episodes[options.seed])]))
    if data is not None:
        extras += _of_data(options, policy, shield, data, run)
    return Evaluation(
        options=options,
        name=name,
        deterministic=acts_deterministically(policies[name]) if asked is None else asked,
        measured=measured,
        recordings=recordings,
        extras=extras,
        alpha=alpha,
    )


def _of_data(
    options: EvalOptions,
    policy: Policy,
    shield: BaseShield | None,
    data: ReplayBuffer,
    run: Callable[..., EvaluationResult],
) -> list[Extras]:
    """Return what recorded episodes tell of a policy."""
    if not isinstance(policy, CommandedPolicy):
        return [_action_errors(data, policy)]
    found = []
    if options.num_commands:
        found.append(obedience(policy, data, options.num_commands, lambda actor, label: run(actor, label=label)))
    if shield is not None:
        found.append(false_alarms(shield, data))
    return found


def _action_errors(data: ReplayBuffer, policy: Policy) -> Extras:
    """Return the errors of a policy's actions on the first recorded episodes.

    Raises:
        DataError: The policy cannot act on their observations.
    """
    episodes = [episode for episode, _ in zip(data.episodes(), range(_MAX_RECORDED), strict=False)]
    errors = [float(error) for error in action_errors(policy, episodes)]
    return Extras(numbers={"action_errors": errors}, sections=[_errors_section(errors)])


def _errors_section(errors: Sequence[float]) -> Section:
    rows = [(str(component), f"{error:.4f}") for component, error in enumerate(errors)]
    return Section(
        title="Error of each action",
        text=(
            "Mean distance from recorded actions, in units of their range [-1, 1], where the policy sees what was "
            "recorded. It says what was learnt, not whether the policy succeeds."
        ),
        tables=[Table(title="Errors", header=("Component", "Mean absolute error"), rows=rows)],
    )
