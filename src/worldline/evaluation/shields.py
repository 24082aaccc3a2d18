"""How good a shield is: false alarms on what is possible, detection of what is not, and where projections lie."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from worldline.episode import Array, Episode, named_obs
from worldline.errors import DataError
from worldline.evaluation.statistics import Interval, wilson_interval
from worldline.protocols import DensityShield, HasEpisodes, Shield

_MARGIN = 0.25  # by how many deviations of all commands an impossible one is beyond the best
_ROWS = 2048  # scored at a time
ALPHAS = (0.02, 0.05, 0.1, 0.2, 0.3)  # of a calibration curve


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CommandRows:
    """States, and a command in each."""

    states: Tensor | dict[str, Tensor]  # [N, *obs]
    commands: Tensor  # [N, 2] (steps, return)

    def __len__(self) -> int:
        return len(self.commands)

    def at(self, indices: Tensor) -> CommandRows:
        """Return some of the rows."""
        states = self.states
        chosen = {key: value[indices] for key, value in states.items()} if isinstance(states, dict) else states[indices]
        return CommandRows(states=chosen, commands=self.commands[indices])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detection:
    """How well scores tell impossible commands from possible ones."""

    auroc: float  # probability that an impossible one scores higher than a possible one
    fpr_at_95_tpr: float  # share of possible ones above the threshold that 95% of the impossible ones exceed
    flagged: float  # share of impossible ones above the calibrated threshold
    num_commands: int  # impossible ones


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShieldResult:
    """What a shield does on held-out episodes."""

    num_episodes: int
    num_false_alarms: int  # of one row of each episode
    detection: Mapping[str, Detection]  # by kind of impossible command

    @property
    def false_alarm_rate(self) -> float:
        """The share of rows that are flagged although their commands were obeyed."""
        return self.num_false_alarms / self.num_episodes

    @property
    def interval95(self) -> Interval:
        """Wilson's interval of that rate."""
        return wilson_interval(self.num_false_alarms, self.num_episodes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProjectionResult:
    """What became of commands that were projected; rates are shares of all of them."""

    num_commands: int
    changed: float  # were flagged, so another command was returned
    passing: float  # the result passes; states that are flagged themselves are left out
    horizon_valid: float  # the result has a horizon of 1 or more
    kept: float  # of those that were fine, the share returned exactly as they were
    mean_distance: float  # from a flagged command to its projection, in deviations of the data's commands

    @property
    def holds(self) -> bool:
        """Whether the postcondition holds for every command."""
        return self.passing == self.horizon_valid == self.kept == 1.0


def one_row_each(dataset: HasEpisodes, *, seed: int = 0) -> CommandRows:
    """Return one row of each episode, drawn uniformly, with the command that it turned out to obey."""
    draws = np.random.default_rng(seed)
    items = [(episode, int(draws.integers(len(episode)))) for episode in dataset.episodes()]
    if not items:
        raise DataError("There are no episodes to evaluate the shield on. Pass a data set that has some.")
    commands = torch.from_numpy(np.stack([episode.commands[row] for episode, row in items]))
    first = items[0][0].obs
    if isinstance(first, dict):
        columns = {
            key: np.stack([named_obs(episode.obs)[f"obs.{key}"][row] for episode, row in items]) for key in first
        }
        states = {key: torch.from_numpy(column) for key, column in columns.items()}
        return CommandRows(states=states, commands=commands)
    column = np.stack([named_obs(episode.obs)["obs"][row] for episode, row in items])
    return CommandRows(states=torch.from_numpy(column), commands=commands)


def impossible_commands(rows: CommandRows, dataset: HasEpisodes, *, seed: int = 0) -> dict[str, CommandRows]:
    """Return commands that no row of `dataset` obeyed or exceeded, in states of `rows`, by kind.

    - "return too high": the horizon of the row, and a return beyond the best of all rows whose horizon is within a
      tenth (or five steps) of it, by a quarter to one and a quarter of the deviation of all returns
    - "horizon too short": the return of the row, in fewer steps than any row needed for as much or more, by at least a
      quarter of the deviation of all horizons; rows whose return was once reached in as few steps are left out
    - "horizon just too short": the same without that quarter
    """
    known = np.concatenate([episode.commands for episode in dataset.episodes()]).astype(np.float64)  # [N, 2]
    draws = np.random.default_rng(seed)
    commands = rows.commands.double().numpy()
    steps, returns = commands[:, 0], commands[:, 1]
    beyond = (_MARGIN + draws.random(len(rows))) * known[:, 1].std()
    high = np.stack((steps, _best_near(known, steps) + beyond), 1)
    shortest = _fewest_steps(known, returns)  # [B]
    found = {"return too high": CommandRows(states=rows.states, commands=torch.from_numpy(high).float())}
    for name, margin in (("too short", max(1.0, _MARGIN * known[:, 0].std())), ("just too short", 1.0)):
        most = np.floor(shortest - margin)  # [B]; the command is any whole number of steps up to it
        short = np.stack((np.floor(1 + draws.random(len(rows)) * most), returns), 1)
        if len(possible := np.flatnonzero(most >= 1)):
            some = rows.at(torch.from_numpy(possible))
            replaced = torch.from_numpy(short[possible]).float()
            found[f"horizon {name}"] = CommandRows(states=some.states, commands=replaced)
    return found


def evaluate_shield(shield: Shield, held_out: HasEpisodes, *, train: HasEpisodes, seed: int = 0) -> ShieldResult:
    """Return the false alarms of a calibrated shield, and how it tells impossible commands from possible ones.

    Args:
        shield: What is evaluated.
        held_out: Episodes that it was neither trained nor calibrated on.
        train: What is possible is told by these episodes and `held_out` together.
        seed: Draws a row of each episode, and the impossible commands.
    """
    rows = one_row_each(held_out, seed=seed)
    scores = score(shield, rows)
    false_alarms = int(is_flagged(shield, rows).sum())
    detection = {
        name: Detection(
            auroc=auroc(scores, other),
            fpr_at_95_tpr=float((scores >= np.quantile(other, 0.05)).mean()),
            flagged=float(is_flagged(shield, impossible).mean()),
            num_commands=len(impossible),
        )
        for name, impossible in impossible_commands(rows, _Both(train, held_out), seed=seed).items()
        for other in [score(shield, impossible)]
    }
    return ShieldResult(num_episodes=len(rows), num_false_alarms=false_alarms, detection=detection)


def evaluate_projection(shield: Shield, rows: CommandRows, *, scale: Tensor) -> ProjectionResult:
    """Return whether the projections of commands keep what `BaseShield.project` promises.

    Args:
        shield: A calibrated shield.
        rows: States and commands.
        scale: `[2]` deviations of the data's commands.
    """
    projected = CommandRows(
        states=rows.states,
        commands=torch.cat([shield.project(piece.states, piece.commands).cpu() for piece in _pieces(rows)]),
    )
    before, after = is_flagged(shield, rows), is_flagged(shield, projected)
    # A flagged state stays flagged whatever the command.
    state_is_odd = np.concatenate([_state_flagged(shield, piece) for piece in _pieces(projected)])
    changed = (projected.commands != rows.commands).any(1).numpy()
    distance = ((projected.commands - rows.commands) / scale.cpu()).norm(dim=1).numpy()
    return ProjectionResult(
        num_commands=len(rows),
        changed=float(changed.mean()),
        passing=float((~after[~state_is_odd]).mean()),
        horizon_valid=float((projected.commands[:, 0] >= 1).float().mean()),
        kept=float((~changed[~before]).mean()) if (~before).any() else 1.0,
        mean_distance=float(distance[changed].mean()) if changed.any() else 0.0,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FalseAlarms:
    """How often a shield flags what is possible, beside how often it was told that it may."""

    alpha: float
    num_rows: int  # one of each episode
    num_flagged: int

    @property
    def rate(self) -> float:
        """The share that is flagged."""
        return self.num_flagged / self.num_rows

    @property
    def interval95(self) -> Interval:
        """Wilson's interval of that rate."""
        return wilson_interval(self.num_flagged, self.num_rows)


def calibration_curve(
    shield: DensityShield,
    calibration: HasEpisodes,
    test: HasEpisodes,
    *,
    alphas: Sequence[float] = ALPHAS,
    seed: int = 0,
) -> list[FalseAlarms]:
    """Return the false alarms at several alphas; the shield itself stays as it is.

    Args:
        shield: A copy of it is calibrated anew, once: the scores of the episodes give the thresholds of all alphas.
        calibration: Episodes that it was not trained on.
        test: Others, not trained on either; one row of each is judged.
        alphas: The rates that are asked for, one or more.
        seed: Of the calibration, and of the rows.

    Raises:
        ConfigError: An alpha is not within (0, 1).
        DataError: There are too few episodes to calibrate with for the least alpha, or none to test.
    """
    rows, copied = one_row_each(test, seed=seed), copy.deepcopy(shield)
    calibrated = copied.calibrate(calibration, min(alphas), seed=seed)  # the least takes the most episodes
    scores, horizons = torch.from_numpy(score(copied, rows)), rows.commands[:, 0]
    found = []
    for alpha in alphas:
        num_flagged = int((scores > calibrated.limits(horizons, alpha)).sum())
        found.append(FalseAlarms(alpha=alpha, num_rows=len(rows), num_flagged=num_flagged))
    return found


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CommandMap:
    """What a shield says of all commands of a rectangle in one state."""

    steps: Array  # [X], rising
    returns: Array  # [Y], rising
    log_density: Array  # [X, Y] in nats
    excess: Array  # [X, Y], of the score above the threshold: commands are allowed where it is at most 0
    state_is_flagged: bool  # whatever the command


def command_map(
    shield: DensityShield,
    state: Tensor | dict[str, Tensor],
    *,
    low: tuple[float, float],
    high: tuple[float, float],
    num_cells: int = 48,
) -> CommandMap:
    """Return what a calibrated shield says of `num_cells` x `num_cells` commands from `low` to `high` (steps, return).

    `state` is one observation `[1, *obs]`, or a dict of them.
    """
    steps, returns = (torch.linspace(low[axis], high[axis], num_cells) for axis in range(2))
    commands = torch.cartesian_prod(steps, returns)  # [X * Y, 2]
    states = (
        {name: _repeated(column, len(commands)) for name, column in state.items()}
        if isinstance(state, dict)
        else (_repeated(state, len(commands)))
    )
    pieces = _pieces(CommandRows(states=states, commands=commands))
    with torch.inference_mode():
        excess = torch.cat([shield.excess(piece.states, piece.commands).cpu() for piece in pieces])
        density = torch.cat([shield.log_prob(piece.states, piece.commands).cpu() for piece in pieces])
    inside = commands[excess.argmin()][None]
    return CommandMap(
        steps=steps.numpy(),
        returns=returns.numpy(),
        log_density=density.view(num_cells, num_cells).numpy(),
        excess=excess.view(num_cells, num_cells).numpy(),
        state_is_flagged=bool(shield.excess(state, inside) <= 0) and bool(shield.is_ood(state, inside)),
    )


def auroc(negatives: Array, positives: Array) -> float:
    """Return the probability that a positive's score is above a negative's; a tie counts half.

    >>> auroc(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0]))  # of six pairs, 1.5 and 3 are in order
    0.75
    """
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, side="left") + np.searchsorted(ordered, positives, side="right")
    return float(below.mean() / 2 / len(ordered))


def score(shield: Shield, rows: CommandRows) -> Array:
    """Return the scores of all rows, `[N]`."""
    found: Array = torch.cat([shield.score(piece.states, piece.commands).cpu() for piece in _pieces(rows)]).numpy()
    return found


def is_flagged(shield: Shield, rows: CommandRows) -> Array:
    """Return which rows are flagged, `[N]` bool."""
    found: Array = torch.cat([shield.is_ood(piece.states, piece.commands).cpu() for piece in _pieces(rows)]).numpy()
    return found


def _state_flagged(shield: Shield, rows: CommandRows) -> Array:
    """Return for which rows the state alone is flagged: the score of the state is that of the whole, and too large."""
    alone = shield.state_score(rows.states) >= shield.score(rows.states, rows.commands)
    found: Array = (alone & shield.is_ood(rows.states, rows.commands)).cpu().numpy()
    return found


def _repeated(column: Tensor, num: int) -> Tensor:
    """Return a column `[1, ...]` as `[num, ...]`, without a copy."""
    return column.expand(num, *column.shape[1:])


def _pieces(rows: CommandRows) -> list[CommandRows]:
    return [rows.at(piece) for piece in torch.arange(len(rows)).split(_ROWS)]


def _best_near(known: Array, steps: Array) -> Array:
    """Return the best return of all `known [N, 2]` whose steps are near each of `steps [B]`."""
    longest = int(max(known[:, 0].max(), steps.max())) + 1
    best = np.full(longest + 1, -np.inf)  # by number of steps
    np.maximum.at(best, known[:, 0].astype(int), known[:, 1])
    width = np.maximum(5, steps // 10).astype(int)
    found: Array = np.array(
        [
            best[max(1, int(centre) - each) : int(centre) + each + 1].max()
            for centre, each in zip(steps, width, strict=True)
        ]
    )
    return found


def _fewest_steps(known: Array, returns: Array) -> Array:
    """Return in how few steps any of `known [N, 2]` reached as much as each of `returns [B]`."""
    order = np.argsort(-known[:, 1], kind="stable")
    fewest = np.minimum.accumulate(known[order, 0])  # [N], over falling returns
    reached = np.searchsorted(-known[order, 1], -returns, side="right")  # how many returned as much or more
    found: Array = np.where(reached > 0, fewest[np.maximum(reached - 1, 0)], 1.0)
    return found


@dataclasses.dataclass(frozen=True)
class _Both:
    """The episodes of two data sets."""

    first: HasEpisodes
    second: HasEpisodes

    def episodes(self) -> Iterator[Episode]:
        yield from self.first.episodes()
        yield from self.second.episodes()
