"""`worldline collect`: record episodes of an environment into a data file."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from worldline.cli.options import (
    Command,
    EnvSettings,
    NumThreads,
    check_episodes,
    check_seed,
    parse,
    parse_env_settings,
    set_num_threads,
)
from worldline.envs.scripted import NAMES, SCRIPTED
from worldline.errors import ConfigError, FileError

if TYPE_CHECKING:
    from worldline.data.buffer import ReplayBuffer
    from worldline.envs.rows import RowEnv
    from worldline.episode import Episode
    from worldline.models.base import Model
    from worldline.protocols import Policy

RANDOM = "random"

_DESCRIPTION = """\
Record episodes of an environment into a data file.

Examples:
  worldline collect CartPole-v1 --episodes 500 --out cartpole.npz
  worldline collect CartPole-v1 --episodes 100 --policy runs/cartpole --out cartpole.npz
  worldline collect LunarLander-v3 --env-set continuous=true --episodes 2000 --policy mixed --out lunar.npz
"""


_POLICY_HELP = (
    "Who acts: random; a scripted policy of the environment, which is expert (at its best) or mixed (every episode "
    f"another one, from expert to poor), for {', '.join(SCRIPTED)}; or the folder of a run or a saved model, which "
    "samples its actions."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CollectOptions:
    """Options of `worldline collect`."""

    env: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENV")]
    """An environment, such as CartPole-v1 or dmc:walker-walk."""
    out: Path
    """The file to write, ending in .npz."""
    env_settings: EnvSettings = ()
    episodes: int = 100
    """How many whole episodes to record."""
    policy: Annotated[str, tyro.conf.arg(metavar="random|NAME|DIR", help=_POLICY_HELP)] = RANDOM
    command: Command = None
    seed: int = 0
    """Episode i begins with this seed plus i; the policy's own noise is seeded too."""
    num_envs: int = 32
    """How many environments take their steps together."""
    num_threads: NumThreads = 0
    overwrite: bool = False
    """Replace the file if it is there."""


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    from worldline.cli.runs import make_folder
    from worldline.cli.terminal import results

    options = parse(CollectOptions, arguments, command="collect", description=_DESCRIPTION)
    check_seed(options.seed)
    check_episodes(options.episodes)
    check_output(options.out, overwrite=options.overwrite)
    make_folder(options.out.parent)
    set_num_threads(options.num_threads)
    buffer = collect(
        options.env,
        policy=options.policy,
        command=options.command,
        num_episodes=options.episodes,
        seed=options.seed,
        num_envs=options.num_envs,
        env_settings=parse_env_settings(options.env_settings),
        rescue=lambda rescued: _rescue(rescued, options),
    )
    buffer.save(options.out)
    returns = [float(episode.rewards.sum()) for episode in buffer.episodes()]
    results.print(
        f"Wrote {buffer.num_episodes:,} episodes, {buffer.num_transitions:,} steps, mean return "
        f"{sum(returns) / len(returns):.1f} to {options.out}",
        soft_wrap=True,
    )


def _rescue(buffer: ReplayBuffer, options: CollectOptions) -> None:
    """Save what there is of a collection that does not come to its end."""
    from worldline.cli.terminal import progress

    buffer.save(options.out)
    progress.print(f"{options.out} has the first {buffer.num_episodes:,} of {options.episodes:,} episodes.")


def collect(
    env_id: str,
    *,
    policy: str = RANDOM,
    command: tuple[float, float] | None = None,
    num_episodes: int,
    seed: int = 0,
    num_envs: int = 32,
    env_settings: Mapping[str, Any] | None = None,
    rescue: Callable[[ReplayBuffer], None] | None = None,
) -> ReplayBuffer:
    """Return `num_episodes` whole episodes of `policy` (see `open_policy`) in a buffer.

    `rescue` is called if that fails midway, or is interrupted, with those that are finished. One is left out where
    one of an earlier seed is not finished: of those that begin together, the short ones end first.

    Raises:
        ConfigError: No such environment, or one that the policy was not trained for.
        FileError: There is no model in the folder.
    """
    from worldline.cli.terminal import episode_progress
    from worldline.data.buffer import ReplayBuffer
    from worldline.envs.make import make_env
    from worldline.envs.scripted import scripted_names
    from worldline.evaluation.rollout import collect_episodes

    settings = dict(env_settings or {})
    kept = settings.pop("obs_keys", None) if policy in scripted_names(env_id) else None
    env = make_env(env_id, **settings)
    env.close()
    spec = env.data_spec
    actor = open_policy(policy, env, env_id=env_id, command=command)
    finished: dict[int, Episode] = {}

    def as_buffer(episodes: Iterable[Episode]) -> ReplayBuffer:
        if kept is not None:  # a scripted policy may go by what whoever learns from it shall not see
            episodes = (episode.select_obs(kept) for episode in episodes)
        named = (dataclasses.replace(episode, meta={**episode.meta, "env": env_id}) for episode in episodes)
        return ReplayBuffer.from_episodes(named, action_dim=spec.action_dim, action_sizes=spec.action_sizes)

    def on_episode(episode: Episode) -> None:
        finished[episode.meta["seed"]] = episode
        show(episode)

    try:
        with episode_progress(f"Collecting {env_id}", num_episodes) as show:
            episodes = collect_episodes(
                lambda: make_env(env_id, **settings),
                actor,
                num_episodes=num_episodes,
                seed=seed,
                num_envs=num_envs,
                on_episode=on_episode,
            )
    except BaseException:  # Ctrl-C, or a mistake of the environment, which goes on from here
        whole = [finished[number] for number in itertools.takewhile(finished.__contains__, itertools.count(seed))]
        if rescue is not None and whole:
            rescue(as_buffer(whole))
        raise
    return as_buffer(episodes)


def open_policy(
    policy: str, env: RowEnv, *, env_id: str, command: tuple[float, float] | None = None, device: str = "cpu"
) -> Policy:
    """Return the random policy, a scripted one, or the model in the folder `policy`, for `env`.

    Args:
        policy: "random", the name of a scripted policy, or a folder; a name wins over a folder of that name.
        env: What it acts in.
        env_id: What that is called.
        command: Steps and return, for a model that obeys commands.
        device: Where a model runs.

    Raises:
        FileError: There is no model in the folder.
        ConfigError: The model does not act, was built for other observations or actions, or lacks a command; or
            there is no such policy.
    """
    from worldline.cli.runs import saved_model
    from worldline.create import load_model
    from worldline.envs.scripted import scripted_names, scripted_policy
    from worldline.evaluation.rollout import RandomPolicy

    if policy == RANDOM or policy in scripted_names(env_id) or (policy in NAMES and not Path(policy).exists()):
        _check_no_command(command, f"The policy {policy!r}")
        if policy == RANDOM:
            return RandomPolicy(env.data_spec)
        return scripted_policy(policy, env_id, env.data_spec)
    folder = saved_model(Path(policy).expanduser())
    model = load_model(folder, device=device)
    check_built_for(model, env, folder)
    return _told(model, command, folder)


def _told(model: Model, command: tuple[float, float] | None, folder: Path) -> Policy:
    """Return a model as a policy, with its command if it takes one."""
    from worldline.models.commanded import CommandedPolicy
    from worldline.protocols import Commanded, Policy

    if isinstance(model, Commanded):
        if command is None:
            raise ConfigError(
                f"The model in {folder} ({model.family}) does what it is told. Add --command STEPS RETURN, such as "
                "--command 200 250."
            )
        return CommandedPolicy(model, command)
    if not isinstance(model, Policy):
        raise ConfigError(f"The model in {folder} ({model.family}) does not choose actions. Give one that does.")
    _check_no_command(command, f"The model in {folder} ({model.family})")
    return model


def _check_no_command(command: tuple[float, float] | None, who: str) -> None:
    if command is not None:
        raise ConfigError(f"{who} takes no commands. Leave out --command.")


def check_built_for(model: Model, env: RowEnv, folder: Path) -> None:
    """Check that a model was built for the observations and actions of an environment.

    Raises:
        ConfigError: It was not.
    """
    from worldline.config import to_dict

    built_for, needed = to_dict(model.config), to_dict(env.data_spec)
    for name, what in (("obs_shape", "observations"), ("action_dim", "actions"), ("action_type", "actions")):
        if name in built_for and built_for[name] != needed[name]:
            raise ConfigError(
                f"The model in {folder} has {name} {built_for[name]}, but the environment's {what} have "
                f"{needed[name]}. Use the environment that it was trained for."
            )


def check_output(path: Path, *, overwrite: bool) -> None:
    """Check that a data file may be written to `path`, before anything is done for it.

    Raises:
        FileError: It is a folder, or there already.
        ConfigError: Its name does not end in .npz.
    """
    if path.is_dir():
        raise FileError(f"{path} is a folder. Give the name of a file with --out.")
    if path.suffix != ".npz":
        raise ConfigError(f"--out {path} must end in .npz, such as {path.with_suffix('.npz')}.")
    if path.exists() and not overwrite:
        raise FileError(f"{path} is there already. Add --overwrite to replace it, or choose another --out.")
