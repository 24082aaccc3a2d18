"""A model small enough to train in a second, and how to run the command line."""

from __future__ import annotations

import subprocess
import sys

from worldline.cli.main import main

SETTINGS = {
    "deter": 16,
    "hidden": 8,
    "stoch": 4,
    "classes": 4,
    "blocks": 4,
    "units": 8,
    "num_bins": 15,
    "imagination_horizon": 3,
}
SET = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
MODEL = ["dreamerv3:size1m", *SET]
BUDGET = ["--total-steps", "6", "--batch-size", "2", "--sequence-length", "8", "--log-interval", "2"]


def train(data, out, *more):
    """Return the arguments of a tiny `worldline train`."""
    return ["train", *MODEL, "--data", str(data), "--out", str(out), *BUDGET, "--device", "cpu", *map(str, more)]


def run(*arguments):
    """Run the command line in this process and return its exit status."""
    return main([str(argument) for argument in arguments])


def start(*arguments, cwd=None):
    """Start the command line in another process."""
    code = "import sys; from worldline.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd)
