"""What `worldline demo` comes to over several seeds: the return of the learnt policy, and how far its predictions hold.

Takes about five minutes a seed, so that `make bench` leaves it out. A demo that is there already is not run again; one
that was stopped goes on. Writes results/demo.json and the tables of README.md.

    python benchmarks/demo.py --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from run import HERE, read_results, with_tables
from worldline.cli.main import main as worldline


def main() -> int:
    """Run the demos that are missing, and write what all came to; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one demo each")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="the folder of the demos")
    options = parser.parse_args()
    summaries = [summary(seed, options.out / f"demo{seed}") for seed in options.seeds]
    means = [found["eval_return_mean"] for found in summaries]
    mean = {"seed": "mean", "return": statistics.mean(means)}
    result = {
        "name": "demo",
        "rows": [*map(row, summaries), mean],
        "environment": {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "env": summaries[0]["env"],
            "model": summaries[0]["config"]["model"],
            "steps": summaries[0]["train_steps"],
        },
    }
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    (folder / "demo.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    readme = HERE / "README.md"
    readme.write_text(with_tables(readme.read_text(encoding="utf-8"), read_results()), encoding="utf-8")
    return 0


def summary(seed: int, out: Path) -> dict[str, Any]:
    """Return the summary of the demo of `seed`, which is run in `out` unless it was."""
    if status := worldline(["demo", "--seed", str(seed), "--out", str(out), "--resume"]):
        raise SystemExit(status)
    found: dict[str, Any] = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return found


def row(found: dict[str, Any]) -> dict[str, Any]:
    """Return a demo as a row; errors are shares of the error of copying the last observation."""
    shares = [model / copy for model, copy in zip(found["open_loop_mse"], found["copy_mse"], strict=True)]
    return {
        "seed": found["seed"],
        "return": found["eval_return_mean"],
        "std": found["eval_return_std"],
        "random": found["random_return_mean"],
        "worst_error_2_to_15": round(max(shares[1:]), 3),
        "error_15": round(shares[-1], 3),
    }


if __name__ == "__main__":
    sys.exit(main())
