"""`simscale eval`: run a trained policy in an environment."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from worldline.cli.options import check_seed, parse
from worldline.errors import FileError, nearest

_DESCRIPTION = """\
Run a policy in an environment: how often it succeeds, with a 95% interval.

Examples:
  simscale eval checkpoints/final.pt --env reach --episodes 200
  simscale eval expert --env pick_place --episodes 200 --json
"""
_NAMED = ("expert", "random")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Options of `simscale eval`."""

    policy: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint of `simscale train`; or expert, or random."""
    env: str = "reach"
    """An environment of `simscale list-envs`."""
    episodes: int = 20
    """How many whole episodes to run."""
    max_steps: int = 200
    """After how many steps an episode ends, unless it has before."""
    stochastic: bool = False
    """Sample actions instead of taking the most likely ones."""
    image_size: int = 0
    """Height and width of the images that the policy sees; 0: those that it was trained with."""
    save_videos: bool = False
    """Save every episode as a video."""
    video_dir: str = "videos"
    """The folder for them."""
    seed: int = 1_000_000
    """Episode i begins with this seed plus i."""
    device: str = "auto"
    """Where the model runs: auto, cpu, cuda, mps."""
    json: bool = False
    """Print one JSON object instead of lines."""


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(EvalOptions, arguments, command="eval", description=_DESCRIPTION, program="simscale")
    check_seed(options.seed)
    from simscaleai.models.imitation import ImitationModel
    from simscaleai.models.saved import load_trained
    from simscaleai.rl.evaluator import EvalConfig, evaluate_policy
    from simscaleai.sim.demonstrations import policy_for
    from simscaleai.sim.environments import make_env
    from worldline.cli.terminal import results

    if options.policy not in _NAMED and not Path(options.policy).exists():
        raise FileError(
            f"There is no checkpoint {options.policy}, and no policy of that name. {nearest(options.policy, _NAMED)}"
        )
    model: Any = None if options.policy in _NAMED else load_trained(Path(options.policy), device=options.device)
    trained_with = model.image_size if isinstance(model, ImitationModel) else None
    env = make_env(options.env, image_size=options.image_size or trained_with)
    try:
        found = evaluate_policy(
            env,
            policy_for(options.policy, env) if model is None else model,
            EvalConfig(
                n_episodes=options.episodes,
                max_steps=options.max_steps,
                deterministic=not options.stochastic,
                save_videos=options.save_videos,
                video_dir=options.video_dir,
                seed=options.seed,
            ),
        )
    finally:
        env.close()
    if options.json:
        numbers = {name: value if math.isfinite(value) else None for name, value in found.items()}
        print(json.dumps({"policy": options.policy, "env": options.env, **numbers}, indent=2))
        return
    for name, value in found.items():
        results.print(f"{name:<16}{value:.4g}")
