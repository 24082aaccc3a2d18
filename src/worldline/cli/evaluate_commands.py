"""What `worldline eval` does for models that obey commands: with and without a shield, and how well they obey.

A shield is held against none, where the model is told whatever was asked for, and against clipping, where it is told at
most what the data hold. The report says what several commands of recorded episodes led to, what the shield makes of
commands in a few states, and how often it is wrong about commands that were obeyed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from worldline.cli.collect import check_built_for
from worldline.cli.measured import OBEDIENCE, interval_text, obedience_texts
from worldline.cli.runs import saved_model
from worldline.cli.terminal import progress
from worldline.create import load_model
from worldline.data.buffer import ReplayBuffer
from worldline.envs.rows import RowEnv
from worldline.episode import Episode
from worldline.errors import ConfigError, DataError
from worldline.evaluation.commands import agreement, commands_in
from worldline.evaluation.rollout import EvaluationResult
from worldline.evaluation.shields import ALPHAS, calibration_curve, command_map
from worldline.models.commanded import CommandedPolicy
from worldline.models.shielded import ShieldedPolicy
from worldline.models.shields import BaseShield
from worldline.ops.conformal import min_episodes
from worldline.protocols import Policy
from worldline.report.command_figures import calibration_chart, command_map_chart, obedience_chart
from worldline.report.page import Figure, Section, Table
from worldline.report.svg import LineChart

NO_SHIELD, CLIPPED = "no shield", "clipped"

_ALPHA = 0.05  # of shields that are not calibrated yet
_STATES = (0.0, 0.3, 0.6, 0.9)  # of an episode's steps: where the shield is asked about all commands
_OVERHANG = 0.5  # of the data's range: how far beyond it a chart goes, to show the command that was told


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extras:
    """What is in an evaluation besides the episodes of each policy."""

    numbers: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # as JSON has them
    sections: Sequence[Section] = ()  # of the report


def open_shield(
    path: Path, env: RowEnv, *, policy: Policy, device: str, data: ReplayBuffer | None, alpha: float | None
) -> tuple[BaseShield, float | None]:
    """Return the shield in the folder `path`, and at which alpha it was calibrated here, with half of `data`.

    Without an alpha that is 5%, if it never was calibrated, or None: it is as it was saved.

    Raises:
        FileError: There is no model in the folder.
        ConfigError: It is no shield, or one for another environment; the policy takes no commands; or the shield is to
            be calibrated, and there are no data, or too few.
    """
    if not isinstance(policy, CommandedPolicy):
        raise ConfigError("--shield is for models that obey commands (udrl); this one takes none. Leave it out.")
    folder = saved_model(path.expanduser())
    shield = load_model(folder, device=device)
    if not isinstance(shield, BaseShield):
        raise ConfigError(f"The model in {folder} ({shield.family}) is no shield. Give one to --shield.")
    check_built_for(shield, env, folder)
    is_new = bool(shield.thresholds.isnan().any())
    if not is_new and alpha is None:
        return shield, None
    if data is None:
        raise ConfigError(
            f"The shield in {folder} {'was never' if is_new else 'is to be'} calibrated. Add --data with episodes that "
            "it was not trained on, half of which then calibrate it, or call shield.calibrate and save_pretrained."
        )
    half, _ = data.split(0.5)
    alpha = _ALPHA if alpha is None else alpha
    try:
        shield.calibrate(half, alpha)
    except DataError as error:
        raise ConfigError(
            f"Half of the {data.num_episodes} episodes of --data is to calibrate the shield in {folder}: {error}"
        ) from error
    done = "was never calibrated: it is now" if is_new else "is calibrated anew"
    progress.print(
        f"The shield in {folder} {done}, at {alpha:g}, by {half.num_episodes:,} of the "
        f"{data.num_episodes:,} episodes of --data.",
        soft_wrap=True,
        markup=False,
    )
    return shield, alpha


def with_and_without(policy: CommandedPolicy, shield: BaseShield) -> dict[str, Policy]:
    """Return the policy without a shield, clipped to the data, and with the shield, by their names."""
    return {
        NO_SHIELD: CommandedPolicy(policy.model, policy.command, clips=False),
        CLIPPED: policy,
        shield.family: ShieldedPolicy(policy, shield),
    }


def obedience(
    policy: CommandedPolicy,
    data: ReplayBuffer,
    num_commands: int,
    evaluate: Callable[[Policy, str], EvaluationResult],
) -> Extras:
    """Tell the model commands that the data hold, and return what it did.

    Args:
        policy: Whose model is told.
        data: Recorded episodes; the commands are evenly spaced in their returns.
        num_commands: How many commands.
        evaluate: Runs episodes of a policy, under a label.
    """
    told = commands_in(data, num_commands)
    done = [
        evaluate(CommandedPolicy(policy.model, command), f"Told {command[0]:.0f} steps, {command[1]:.1f}")
        for command in told
    ]
    numbers: dict[str, Any] = {
        "commands": [
            {"steps": steps, "return": value, "returns": list(result.returns), "lengths": list(result.lengths)}
            for (steps, value), result in zip(told, done, strict=True)
        ]
    }
    for name, column, kept in (("steps", 0, [r.lengths for r in done]), ("return", 1, [r.returns for r in done])):
        found = dataclasses.asdict(agreement([command[column] for command in told], kept))
        numbers[name] = {key: value if math.isfinite(value) else None for key, value in found.items()}
    return Extras(numbers={"obedience": numbers}, sections=[_obedience_section(told, done, numbers)])


def _obedience_section(
    told: Sequence[tuple[float, float]], done: Sequence[EvaluationResult], numbers: Mapping[str, Any]
) -> Section:
    means = {"return": [r.mean for r in done], "steps": [sum(r.lengths) / len(r.lengths) for r in done]}
    intervals = {"return": [r.interval95 for r in done], "steps": [r.length_interval95 for r in done]}
    asked = {"return": [value for _, value in told], "steps": [steps for steps, _ in told]}
    charts = [obedience_chart(what, asked[what], {"model": means[what]}, {"model": intervals[what]}) for what in asked]
    header = [f"{what.capitalize()}: {name}" for what in ("steps", "return") for name in OBEDIENCE]
    texts = [obedience_texts(command, result) for command, result in zip(told, done, strict=True)]
    rows = [(*of_command["steps"], *of_command["return"]) for of_command in texts]
    agreed = "; ".join(
        f"{what}: rank correlation {_number(numbers[what]['spearman'])}, slope {_number(numbers[what]['slope'])}, mean "
        f"distance of an episode {numbers[what]['mean_distance']:.1f}"
        for what in ("return", "steps")
    )
    text = (
        f"{len(told)} commands that the recorded episodes hold, {len(done[0].returns)} episodes each: evenly spaced "
        "returns, each with the median number of steps of the episodes nearest to it. Bars are 95% intervals of the "
        f"mean; on the dashed line everything is done as told. Of the means: {agreed}."
    )
    return Section(
        title="Told and done",
        text=text,
        figures=[Figure(charts=charts)],
        tables=[Table(title="The numbers", header=header, rows=rows, is_folded=True)],
    )


def false_alarms(shield: BaseShield, data: ReplayBuffer) -> Extras:
    """Return how often the shield is wrong about commands that were obeyed, at several alphas.

    Half of the episodes calibrate it anew, the other half is judged. Alphas that so few cannot promise are left out.
    """
    calibration, test = data.split(0.5)
    enough = [alpha for alpha in ALPHAS if calibration.num_episodes // 4 * 3 >= min_episodes(alpha)]
    if not enough:
        return Extras()
    curve = calibration_curve(shield, calibration, test, alphas=enough)
    rows = [
        (
            f"{point.alpha:.0%}",
            f"{point.rate:.1%}",
            interval_text(point.interval95, ".1%"),
            f"{point.num_flagged} of {point.num_rows}",
        )
        for point in curve
    ]
    chart = calibration_chart({shield.family: [(point.alpha, point.rate, point.interval95) for point in curve]})
    section = Section(
        title="False alarms",
        text=(
            f"For each alpha, {calibration.num_episodes} of the recorded episodes calibrated the shield anew; of the "
            f"{test.num_episodes} others one row each was judged, with the command that it turned out to obey. "
            "Bars are binomial intervals (Wilson's, 95%) of the measured rate."
        ),
        figures=[Figure(charts=[chart])],
        tables=[Table(title="The numbers", header=("Alpha", "Flagged", "95% interval", "Rows"), rows=rows)],
    )
    numbers = [
        {**dataclasses.asdict(point), "rate": point.rate, "interval95": list(point.interval95)} for point in curve
    ]
    return Extras(numbers={"false_alarms": numbers}, sections=[section])


def maps(shield: BaseShield, policy: CommandedPolicy, episode: Episode) -> Section:
    """Return what the shield says of all commands in some states of an episode."""
    rows = [int(share * len(episode)) for share in _STATES]
    return Section(
        title="Commands in some states",
        text=(
            "The first episode with the shield, from its beginning to near its end: how likely the data make each "
            "command there (darker is likelier), and the boundary of what the shield allows. Told is what was then "
            "left of the command as it was asked for, done is what came of it."
        ),
        figures=[Figure(charts=[command_map_at(shield, policy, episode, row) for row in rows])],
    )


def command_map_at(shield: BaseShield, policy: CommandedPolicy, episode: Episode, row: int) -> LineChart:
    """Return the map of commands in the state of one row of an episode, with what was told, projected and done."""
    obs = episode.obs
    state = (
        {name: torch.from_numpy(column[row : row + 1]) for name, column in obs.items()}
        if isinstance(obs, dict)
        else torch.from_numpy(obs[row : row + 1])
    )
    steps, wanted = policy.command
    told = (steps - row, wanted - float(episode.rewards[:row].sum()))
    projected = shield.project(state, torch.tensor([told]))[0].tolist()
    done_steps, done_return = episode.commands[row].tolist()
    low, high = (limit.tolist() for limit in policy.model.command_range)
    ends = [_widened(low[axis], high[axis], told[axis]) for axis in range(2)]
    found = command_map(shield, state, low=(1.0, ends[1][0]), high=(ends[0][1], ends[1][1]))
    is_kept = math.dist(projected, told) < 1e-3
    points = {"told, and allowed": told} if is_kept else {"told": told, "projection": (projected[0], projected[1])}
    return command_map_chart(
        f"Step {row} of {len(episode)}" + (": the state itself is flagged" if found.state_is_flagged else ""),
        steps=found.steps,
        returns=found.returns,
        log_density=found.log_density,
        excess=found.excess,
        points={**points, "done": (done_steps, done_return)},
    )


def _widened(low: float, high: float, value: float) -> tuple[float, float]:
    """Return a range that also holds the value, if that is not too far from it."""
    room = _OVERHANG * (high - low)
    return max(min(low, value), low - room), min(max(high, value), high + room)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
