"""The rows of held-out episodes, their division for calibration, and the thresholds that come of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from worldline.episode import Episode
from worldline.errors import ConfigError, DataError
from worldline.ops.conformal import conformal_threshold, min_episodes

_SHARE = 8  # one episode in so many gives states to compare with, and one in so many the scales of the scores


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EpisodeRows:
    """Rows of E episodes, one episode after the other, on the CPU."""

    obs: dict[str, Tensor]  # name -> [N, *obs]
    commands: Tensor  # [N, 2] float, what each row turned out to obey
    lengths: Tensor  # [E] rows of each episode

    @classmethod
    def of(cls, episodes: Iterable[Episode], shapes: Mapping[str, tuple[int, ...]]) -> EpisodeRows:
        """Return all rows of `episodes` with the observations that `shapes` names.

        Raises:
            DataError: There are no episodes, or one lacks an observation.
        """
        items = list(episodes)
        if not items:
            raise DataError("There are no episodes to calibrate with. Pass a data set that has some.")
        named = [episode.obs if isinstance(episode.obs, dict) else {"obs": episode.obs} for episode in items]
        if missing := sorted(shapes.keys() - named[0].keys()):
            raise DataError(f"The episodes have observations {sorted(named[0])}; {', '.join(missing)} is missing.")
        obs = {name: torch.from_numpy(np.concatenate([columns[name] for columns in named])) for name in shapes}
        commands = torch.from_numpy(np.concatenate([episode.commands for episode in items]))
        return cls(obs=obs, commands=commands, lengths=torch.tensor([len(episode) for episode in items]))

    def rows(self, indices: Tensor) -> EpisodeRows:
        """Return some rows `[n]`, as episodes of one row each."""
        return EpisodeRows(
            obs={name: value[indices] for name, value in self.obs.items()},
            commands=self.commands[indices],
            lengths=torch.ones_like(indices),
        )

    def where(self, mask: Tensor) -> EpisodeRows:
        """Return the rows where `mask [N]` is true, without the episodes that have none."""
        lengths = torch.segment_reduce(mask.double(), "sum", lengths=self.lengths).long()
        found = self.rows(mask.nonzero()[:, 0])
        return dataclasses.replace(found, lengths=lengths[lengths > 0])

    def draw(self, num: int, generator: torch.Generator) -> EpisodeRows:
        """Return `num` rows drawn without replacement, and again from the start where there are not so many."""
        order = torch.randperm(len(self.commands), generator=generator)
        return self.rows(order.repeat(-(-num // len(order)))[:num])

    def divide(self, generator: torch.Generator, *, alpha: float) -> tuple[EpisodeRows, EpisodeRows, EpisodeRows]:
        """Return an eighth of the episodes, another eighth, and all others, at random.

        Raises:
            DataError: There are too few episodes for a threshold at `alpha`.
        """
        num = len(self.lengths)
        few = max(1, num // _SHARE)
        if num - 2 * few < min_episodes(alpha):
            enough = -(-min_episodes(alpha) * _SHARE // (_SHARE - 2)) + 2
            raise DataError(
                f"alpha={alpha:g} takes {enough} held-out episodes; got {num}. Pass more, or a larger alpha."
            )
        order = torch.randperm(num, generator=generator)
        parts = torch.full((num,), 2).index_fill(0, order[:few], 0).index_fill(0, order[few : 2 * few], 1)
        of_rows = parts.repeat_interleave(self.lengths)
        reference, scale, rest = (self.where(of_rows == part) for part in range(3))
        return reference, scale, rest

    def check_enough(self, alpha: float, *, horizon_bin: int) -> None:
        """Raise a DataError unless there are enough episodes for a threshold at `alpha`."""
        if len(self.lengths) < min_episodes(alpha):
            raise DataError(
                f"{len(self.lengths)} held-out episodes have rows in bin {horizon_bin} of the horizon; "
                f"alpha={alpha:g} takes {min_episodes(alpha)}. Pass more episodes, or build the shield with a smaller "
                "num_horizon_bins."
            )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """The scores that a shield was calibrated with, on the CPU: they give the thresholds at every alpha."""

    scores: tuple[Tensor, ...]  # of each bin of the horizon, [n], one of each episode
    edges: Tensor  # [bins - 1] horizons between two bins
    least: float  # no threshold is below it

    def thresholds(self, alpha: float) -> Tensor:
        """Return the threshold of each bin, `[bins]`; infinite where there are too few scores for `alpha`.

        Raises:
            ConfigError: `alpha` is not within (0, 1).
        """
        check_alpha(alpha)
        return torch.stack([conformal_threshold(scores, alpha) for scores in self.scores]).clamp(min=self.least)

    def limits(self, horizons: Tensor, alpha: float) -> Tensor:
        """Return the threshold at `alpha` for each of the horizons `[...]`; raises as `thresholds` does."""
        return self.thresholds(alpha)[torch.bucketize(horizons.contiguous(), self.edges)]


def check_alpha(alpha: float) -> None:
    """Raise a ConfigError unless `alpha` is within (0, 1)."""
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha is {alpha}; expected a rate between 0 and 1, such as 0.05.")
