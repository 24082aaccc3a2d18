"""From a typed dataclass to command-line options, and from `--set key=value` to settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias, TypeVar

import tyro
import yaml

from worldline.errors import ConfigError

T = TypeVar("T")

NumThreads: TypeAlias = Annotated[
    int, tyro.conf.arg(help="Threads of a tensor operation on the CPU; 0 lets torch decide.")
]

Deterministic: TypeAlias = Annotated[
    bool, tyro.conf.arg(help="Take the likeliest actions, even of a model that is meant to sample them (udrl).")
]
Stochastic: TypeAlias = Annotated[
    bool, tyro.conf.arg(help="Sample actions, even of a model that is meant to take its likeliest ones (most are).")
]

Command: TypeAlias = Annotated[
    tuple[float, float] | None,
    tyro.conf.arg(metavar="STEPS RETURN", help="What a model that obeys commands (udrl) is told, such as 200 250."),
]

EnvSettings: TypeAlias = Annotated[
    tyro.conf.UseAppendAction[tuple[str, ...]],
    tyro.conf.arg(
        name="env-set",
        metavar="KEY=VALUE",
        help="A setting of the environment, such as action_repeat=2; may be given several times.",
    ),
]


def parse(
    cls: type[T],
    arguments: Sequence[str],
    *,
    command: str,
    description: str,
    default: T | None = None,
    program: str = "worldline",
) -> T:
    """Return the options that `arguments` ask for; `--help` and wrong options end the program.

    Args:
        cls: A dataclass; its comments are the help texts.
        arguments: What follows the command's name.
        command: The command's name, for messages.
        description: What `--help` says first.
        default: Values of the options that are not given; None takes those of the class.
        program: What the command is one of, for messages.
    """
    config = (tyro.conf.FlagCreatePairsOff,)
    prog = f"{program} {command}"
    if default is None:
        return tyro.cli(cls, prog=prog, description=description, args=arguments, config=config)
    return tyro.cli(cls, prog=prog, description=description, args=arguments, config=config, default=default)


def parse_settings(pairs: Sequence[str], *, option: str = "--set", example: str = "units=64") -> dict[str, Any]:
    """Return the settings that "key=value" pairs ask for; values are read as YAML, so `[1, 2]` is a list.

    Messages name the `option` that the pairs were given to, with an `example`.

    >>> parse_settings(["units=64", "eps=1e-8", "action_type=continuous"])
    {'units': 64, 'eps': 1e-08, 'action_type': 'continuous'}

    Raises:
        ConfigError: A pair without "=", a value that is not YAML, or a key given twice.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"{option} takes KEY=VALUE, such as {option} {example}; got {pair!r}.")
        if key in settings:
            raise ConfigError(f"{option} {key} is given twice. Give each setting once.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"The value of {option} {pair} cannot be read: {error}") from error
        settings[key] = _number(value) if isinstance(value, str) else value
    return settings


def check_seed(seed: int) -> None:
    """Check that every generator takes the seed, and what is added to it or multiplied with it.

    Raises:
        ConfigError: One does not.
    """
    if not 0 <= seed < 1 << 32:
        raise ConfigError(f"--seed must be between 0 and {(1 << 32) - 1}; got {seed}.")


def check_episodes(episodes: int) -> None:
    """Check the number of episodes that `--episodes` asks for.

    Raises:
        ConfigError: There is none.
    """
    if episodes < 1:
        raise ConfigError(f"--episodes must be at least 1; got {episodes}.")


def parse_env_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Return the keywords of `make_env` that "key=value" pairs ask for.

    >>> parse_env_settings(["observe=pixels", "image_size=[48, 64]"])
    {'observe': 'pixels', 'image_size': (48, 64)}

    Raises:
        ConfigError: As for `parse_settings`.
    """
    settings = parse_settings(pairs, option="--env-set", example="action_repeat=2")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}


def way_of_acting(*, deterministic: bool, stochastic: bool) -> bool | None:
    """Return whether actions are to be the likeliest ones; None where each policy acts as it is meant to.

    Raises:
        ConfigError: Both are asked for.
    """
    if deterministic and stochastic:
        raise ConfigError(
            "--deterministic and --stochastic exclude each other. Give one, or none for the model's own way."
        )
    return True if deterministic else False if stochastic else None


def set_num_threads(num_threads: int) -> None:
    """Let tensor operations on the CPU use so many threads; 0 leaves it to torch.

    Raises:
        ConfigError: It is negative.
    """
    if num_threads < 0:
        raise ConfigError(f"--num-threads must be at least 0; got {num_threads}.")
    if num_threads > 0:
        import torch

        torch.set_num_threads(num_threads)


def _number(text: str) -> float | str:
    """Return a number that YAML 1.1 takes for text (1e-8), or the text."""
    try:
        return float(text)
    except ValueError:
        return text
