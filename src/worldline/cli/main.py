"""`worldline COMMAND ...`: find the command, run it, and say in one line what went wrong."""

from __future__ import annotations

import dataclasses
import importlib
import shlex
import shutil
import sys
import warnings
from collections.abc import Sequence

from worldline import __version__
from worldline.errors import WorldlineError, nearest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A module of this package with `main(arguments)`, loaded when it is called."""

    module: str
    summary: str


COMMANDS = {
    "demo": Command(module="demo", summary="Learn CartPole from random play alone, and show that it worked."),
    "collect": Command(module="collect", summary="Record episodes of an environment into a data file."),
    "train": Command(module="train", summary="Train a model on a data file, or online in an environment."),
    "eval": Command(module="evaluate", summary="Run a trained model in an environment."),
    "inspect": Command(
        module="inspect", summary="Show what is in a data file, a run, a saved model, or the model list."
    ),
}

_EPILOGUE = """\
Examples:
  worldline demo
  worldline collect CartPole-v1 --episodes 500 --out cartpole.npz
  worldline train dreamerv3:size1m --data cartpole.npz --out runs/cartpole --total-steps 1000
  worldline eval runs/cartpole --env CartPole-v1 --episodes 20
  worldline inspect runs/cartpole

`worldline COMMAND --help` lists the options of a command."""

INTERRUPTED = 130  # what a shell reports of a program that Ctrl-C ended
WRONG_USE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, 2 for a user's mistake, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"worldline {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        return _fail(f"There is no command {name!r}. {nearest(name, COMMANDS)}")
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        try:
            importlib.import_module(f"worldline.cli.{COMMANDS[name].module}").main(rest)
        except WorldlineError as error:
            return _fail(str(error))
        except KeyboardInterrupt:
            return _interrupted(name, arguments)
    return 0


def _overview() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items())
    return (
        f"worldline {__version__}: train agents that learn from trajectories.\n\n"
        f"Usage: worldline COMMAND ...\n\nCommands:\n{commands}\n\n{_EPILOGUE}"
    )


def _fail(message: str) -> int:
    _tell(f"error: {message}", style="bold red")
    return WRONG_USE


def _warn(message: Warning | str, *where: object, **more: object) -> None:
    """Show a warning as a user reads it, without the line of code that raised it."""
    _tell(f"warning: {message}", style="yellow")


def _tell(text: str, *, style: str) -> None:
    from rich.console import Console

    # Rich leaves the colour out where standard error is not a terminal.
    Console(stderr=True).print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _interrupted(name: str, arguments: Sequence[str]) -> int:
    message = "Interrupted."
    if name in ("train", "demo"):
        again = [*arguments, *([] if "--resume" in arguments else ["--resume"])]
        program = "worldline" if shutil.which("worldline") else sys.argv[0]
        message = f"Interrupted. Go on where it stopped with: {program} {shlex.join(again)}"
    _tell(message, style="yellow")
    return INTERRUPTED
