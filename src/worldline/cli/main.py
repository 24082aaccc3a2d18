"""`worldline COMMAND ...`: find the command, run it, and say in one line what went wrong."""

from __future__ import annotations

import dataclasses
import errno
import importlib
import os
import re
import shlex
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from worldline import __version__
from worldline.errors import WorldlineError, nearest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A module with `main(arguments)`, loaded when it is called; without a dot in its name one of this package."""

    module: str
    summary: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """A program of several commands: `worldline`, and those of the front doors."""

    name: str
    summary: str
    commands: Mapping[str, Command]
    epilogue: str
    resumable: tuple[str, ...] = ()  # commands that go on with --resume


COMMANDS = {
    "demo": Command(module="demo", summary="Learn CartPole from random play alone, and show that it worked."),
    "collect": Command(module="collect", summary="Record episodes of an environment into a data file."),
    "train": Command(module="train", summary="Train a model on a data file, or online in an environment."),
    "launch": Command(module="launch", summary="Train in several processes, of one host or of several."),
    "eval": Command(module="evaluate", summary="Run a trained model in an environment."),
    "compare": Command(module="compare", summary="Train several models on one data file and hold them side by side."),
    "convert": Command(module="convert", summary="Write data of one format in another."),
    "inspect": Command(module="inspect", summary="Show what is in data, a run, a saved model, or the model list."),
    "view": Command(module="view", summary="Look at the runs in a folder, in a browser on this machine."),
}

_EPILOGUE = """\
Examples:
  worldline demo
  worldline collect CartPole-v1 --episodes 500 --out cartpole.npz
  worldline train dreamerv3:size1m --data cartpole.npz --out runs/cartpole --total-steps 1000
  worldline eval runs/cartpole --env CartPole-v1 --episodes 20
  worldline compare --data cartpole.npz --env CartPole-v1 --out runs/compare
  worldline inspect runs/cartpole
  worldline view runs

`worldline COMMAND --help` lists the options of a command."""

INTERRUPTED, TERMINATED = 130, 143  # what a shell reports of a program that Ctrl-C, or SIGTERM, ended
PIPE_CLOSED = 1  # as rich has it, which prints most of the output
WRONG_USE = 2

_DISK_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


WORLDLINE = Program(
    name="worldline",
    summary="train agents that learn from trajectories",
    commands=COMMANDS,
    epilogue=_EPILOGUE,
    resumable=("train", "launch", "demo", "compare"),
)


def main(arguments: Sequence[str] | None = None, program: Program = WORLDLINE) -> int:
    """Run a command and return the exit status: 0, 2 after a user's mistake, 130 after Ctrl-C, 143 after SIGTERM."""
    try:
        try:
            return _run(list(sys.argv[1:] if arguments is None else arguments), program)
        finally:
            sys.stdout.flush()  # here, where a closed pipe has an answer
    except BrokenPipeError:
        # Whoever read the output, such as head, has seen enough. What is still buffered would fail again at the exit.
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return PIPE_CLOSED


def entry(program: Program = WORLDLINE) -> NoReturn:
    """Run the command that the process was started with, and end the process.

    Of several that trained together, all but the first end at once, without taking Python down: a thread of gloo may
    still be giving back the tensors of the last message, and aborts the process if it finds Python gone. They have
    nothing left to write.
    """
    status = main(program=program)
    if os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0":
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _run(arguments: list[str], program: Program) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview(program))
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"{program.name} {__version__}")
        return 0
    if arguments[0] not in program.commands:
        return _fail(f"There is no command {arguments[0]!r}. {nearest(arguments[0], program.commands)}")
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        return _call(arguments, program)


def _call(arguments: Sequence[str], program: Program) -> int:
    module = program.commands[arguments[0]].module
    try:
        importlib.import_module(module if "." in module else f"{__package__}.{module}").main(arguments[1:])
    except WorldlineError as error:
        return _fail(str(error))
    except (MemoryError, OSError, RuntimeError) as error:
        if (message := _trouble_of_the_machine(error)) is None:
            raise
        return _fail(message)
    except KeyboardInterrupt:
        return _interrupted(arguments, program, INTERRUPTED)
    except SystemExit as leaving:  # after SIGTERM; also tyro's, after --help and wrong options
        if leaving.code != TERMINATED:
            raise
        return _interrupted(arguments, program, TERMINATED)
    return 0


def _trouble_of_the_machine(error: BaseException) -> str | None:
    """Say what the machine lacks, or return None where the mistake is ours."""
    if isinstance(error, OSError):
        return f"{error}. Make room, or use another folder." if error.errno in _DISK_TROUBLE else None
    # torch has an OutOfMemoryError for accelerators and none for the CPU; it is not imported here for the name.
    is_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if not is_memory and "DefaultCPUAllocator" not in str(error):
        return None
    return f"Out of memory: {error}. Ask for less, such as a smaller --batch-size or model."


def _overview(program: Program) -> str:
    width = max(map(len, program.commands))
    commands = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in program.commands.items())
    return (
        f"{program.name} {__version__}: {program.summary}.\n\n"
        f"Usage: {program.name} COMMAND ...\n\nCommands:\n{commands}\n\n{program.epilogue}"
    )


def _fail(message: str) -> int:
    _tell(f"error: {message}", style="bold red")
    return WRONG_USE


def _warn(message: Warning | str, *where: object, **more: object) -> None:
    """Show a warning as a user reads it, without the line of code that raised it, nor colours of its own."""
    text = re.sub(r"\x1b\[[\d;]*m", "", str(message)).removeprefix("WARN: ")
    _tell(f"warning: {text}", style="yellow")


def _tell(text: str, *, style: str) -> None:
    from rich.console import Console

    # Rich leaves the colour out where standard error is not a terminal.
    Console(stderr=True).print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _interrupted(arguments: Sequence[str], program: Program, status: int) -> int:
    message = "Interrupted."
    if "TORCHELASTIC_RUN_ID" in os.environ:  # the launcher says it, once
        return status
    if arguments[0] in program.resumable:
        again = [*arguments, *([] if "--resume" in arguments else ["--resume"])]
        message = f"Interrupted. Go on where it stopped with: {_started_as(program)} {shlex.join(again)}"
    _tell(message, style="yellow")
    return status


def _started_as(program: Program) -> str:
    """Return what to type to start the program again."""
    if shutil.which(program.name):
        return program.name
    started = Path(sys.argv[0])
    if started.name == "__main__.py":  # by `python -m`
        return shlex.join([sys.executable, "-m", started.parent.name])
    return shlex.quote(str(started))
