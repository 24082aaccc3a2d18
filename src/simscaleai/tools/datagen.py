"""`simscale datagen`: demonstrations of an environment's expert, as HDF5."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from worldline.cli.options import check_seed, parse
from worldline.errors import FileError

_DESCRIPTION = """\
Record demonstrations of an environment's expert, or random actions, as HDF5.

With --action-noise the arm does not quite what the expert asks for, which is recorded all the same: the data then show
how to come back to the way. Try both: policies that plan chunks of actions cannot foresee what disturbs them.

Examples:
  simscale datagen --env reach --episodes 100 --out data/reach.h5
  simscale datagen --env pick_place --episodes 200 --action-noise 0.25 --out data/pick.h5
  simscale datagen --env language_reach --episodes 500 --image-size 64 --out data/language.h5
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatagenOptions:
    """Options of `simscale datagen`."""

    env: str = "reach"
    """An environment of `simscale list-envs`."""
    out: Path = Path("data/demonstrations.h5")
    """The file to write."""
    episodes: int = 100
    """How many whole episodes to record."""
    policy: str = "expert"
    """Who acts: expert or random."""
    action_noise: float = 0.0
    """Deviation of what disturbs the arm, in units of the action, such as 0.25; 0 disturbs nothing."""
    image_size: int = 0
    """Height and width of an image of each step; 0 records none."""
    seed: int = 0
    """Episode i begins with this seed plus i."""
    overwrite: bool = False
    """Replace the file if it is there."""


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(DatagenOptions, arguments, command="datagen", description=_DESCRIPTION, program="simscale")
    check_seed(options.seed)
    out = options.out.expanduser()
    if out.exists() and not options.overwrite:
        raise FileError(f"{out} is there already. Add --overwrite to replace it, or choose another --out.")
    from simscaleai.sim.demonstrations import record, write
    from worldline.cli.terminal import episode_progress, results

    with episode_progress(f"Recording {options.env}", options.episodes) as on_episode:
        episodes = record(
            options.env,
            policy=options.policy,
            num_episodes=options.episodes,
            seed=options.seed,
            action_noise=options.action_noise,
            image_size=options.image_size or None,
            on_episode=on_episode,
        )
    write(out, episodes)
    num_steps = sum(len(episode) for episode in episodes)
    successes = sum(bool(episode.meta.get("success", False)) for episode in episodes)
    results.print(
        f"Wrote {len(episodes):,} episodes, {num_steps:,} steps, {successes:,} of them successful, to {out}",
        soft_wrap=True,
    )
