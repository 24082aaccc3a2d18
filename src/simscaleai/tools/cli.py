"""`simscale COMMAND ...`, also `python -m simscaleai.tools.cli COMMAND ...`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from worldline.cli.main import Command, Program
from worldline.cli.main import entry as run_and_end
from worldline.cli.main import main as run

_EPILOGUE = """\
Examples:
  simscale datagen --env reach --episodes 100 --out data/reach.h5
  simscale train --model bc --dataset data/reach.h5 --max-steps 5000
  simscale eval checkpoints/final.pt --env reach
  simscale train --model bc --dataset data/reach.h5 --resume checkpoints/step_5000.pt

`simscale COMMAND --help` lists the options of a command."""

_HERE = "simscaleai.tools"

PROGRAM = Program(
    name="simscale",
    summary="train robots by demonstrations",
    commands={
        "train": Command(module=f"{_HERE}.train", summary="Train a policy on demonstrations."),
        "eval": Command(module=f"{_HERE}.evaluate", summary="Run a policy in an environment."),
        "datagen": Command(module=f"{_HERE}.datagen", summary="Record demonstrations of an environment's expert."),
        "list-envs": Command(module=f"{_HERE}.list_envs", summary="List the environments."),
        "list-models": Command(module=f"{_HERE}.list_models", summary="List the models."),
        "viz-dataset": Command(module=f"{_HERE}.viz_dataset", summary="Show what is in a data set."),
        "viz-trajectory": Command(module=f"{_HERE}.viz_trajectory", summary="Plot one episode of a data set."),
        "viz-env": Command(module=f"{_HERE}.viz_env", summary="Film an episode of an environment."),
    },
    epilogue=_EPILOGUE,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status: 0, 2 after a user's mistake, 130 after Ctrl-C, 143 after SIGTERM."""
    return run(arguments, PROGRAM)


def entry() -> NoReturn:
    """Run the command that the process was started with, and end the process."""
    run_and_end(PROGRAM)


if __name__ == "__main__":
    entry()
