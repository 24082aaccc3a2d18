"""`simscale viz-env`: an episode of an environment, filmed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from worldline.cli.options import check_seed, parse

if TYPE_CHECKING:
    from worldline.episode import Array

_DESCRIPTION = """\
Film an episode of an environment.

Examples:
  simscale viz-env reach
  simscale viz-env pick_place --policy random --out pick_place.gif
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VizEnvOptions:
    """Options of `simscale viz-env`."""

    env: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENV")]
    """An environment of `simscale list-envs`."""
    policy: str = "expert"
    """Who acts: expert or random."""
    out: Path = Path("env.mp4")
    """The video to write, .mp4 or .gif."""
    image_size: int = 256
    """Height and width of the frames."""
    seed: int = 0
    """Of the episode."""


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(VizEnvOptions, arguments, command="viz-env", description=_DESCRIPTION, program="simscale")
    check_seed(options.seed)
    from simscaleai.sim.demonstrations import policy_for
    from simscaleai.sim.environments import make_env
    from worldline.cli.terminal import results
    from worldline.evaluation.rollout import collect_episodes
    from worldline.evaluation.video import filming, write_video

    films: list[Array] = []
    env = make_env(options.env, image_size=options.image_size)
    make = filming(env.another, lambda seed, frames: films.append(frames), seeds=[options.seed])
    policy = policy_for(options.policy, env)
    (episode,) = collect_episodes(make, policy, num_episodes=1, seed=options.seed, deterministic=True)
    env.close()
    written = write_video(options.out, films[0])
    results.print(f"Wrote {len(episode)} steps of {options.env} to {written}", soft_wrap=True)
