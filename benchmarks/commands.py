"""Whether agents obey: desired against obtained, for 10 commands that the data hold, 50 episodes each.

For each seed: collects mixed-quality episodes, trains upside-down RL on them, and tells it ten commands from one end of
the data's range to the other. A run that was stopped goes on where it was; one that is finished is not run again.
Writes results/commands/NAME.json and a plot beside it.

    python benchmarks/commands.py                          # what there is
    python benchmarks/commands.py lunarlander              # three seeds, or go on
    python benchmarks/commands.py cartpole --seeds 0
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldline.create import load_model
from worldline.data.buffer import ReplayBuffer
from worldline.envs.make import make_env
from worldline.evaluation.commands import agreement, commands_in
from worldline.evaluation.rollout import evaluate_policy
from worldline.evaluation.statistics import mean_interval95
from worldline.models.commanded import CommandedPolicy
from worldline.report.svg import LineChart, Series, line_chart, standalone

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "commands"
NUM_COMMANDS, NUM_EPISODES, EVAL_SEED = 10, 50, 1_000_000
# How the returns of commands are spaced, and whether the likeliest actions are taken instead of samples
EVEN = "evenly spaced"
KINDS = {EVEN: ("even", False), "quantiles": ("quantiles", False), "likeliest actions": ("even", True)}
SPEARMAN, SLOPES = 0.95, (0.8, 1.2)  # what is asked for


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """What to learn from, and how."""

    env: str
    env_settings: str  # options of the command line
    options: str  # of training


TRAINING = "--sequence-length 1 --learning-rate 1e-3 --schedule cosine --warmup-steps 500 --grad-clip 10"
PROTOCOLS = {
    "lunarlander": Protocol(
        env="LunarLander-v3",
        env_settings="--env-set continuous=true",
        options=f"{TRAINING} --batch-size 512 --total-steps 20000",
    ),
    "cartpole": Protocol(env="CartPole-v1", env_settings="", options=f"{TRAINING} --batch-size 512 --total-steps 4000"),
    "pendulum": Protocol(env="Pendulum-v1", env_settings="", options=f"{TRAINING} --batch-size 512 --total-steps 4000"),
}


def main() -> int:
    """Run what the command line names and write what came of it; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PROTOCOLS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/commands"), help="the folder of data and runs")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in PROTOCOLS]:
        parser.error(f"no protocol is called {', '.join(unknown)}; there are {', '.join(PROTOCOLS)}")
    torch.set_num_threads(1)
    for name in options.names:
        for seed in options.seeds:
            run(PROTOCOLS[name], seed, options.out / f"{name}-{seed}")
        write(name, PROTOCOLS[name], options.out)
    for path in sorted(RESULTS.glob("*.json")):
        for seed, found in json.loads(path.read_text(encoding="utf-8"))["seeds"].items():
            print(f"{path.stem}, seed {seed}: {found['training_minutes']:.1f} minutes of training")
            for kind in KINDS:
                keys = ("spearman", "slope", "episode_spearman")
                print(f"    {kind:24}", ", ".join(f"{key} {found[kind][key]:.3f}" for key in keys))
    return 0


def run(protocol: Protocol, seed: int, folder: Path) -> None:
    """Collect, train and measure one seed, whatever of it is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data.npz"
    if not data.is_file():
        worldline(collecting(protocol, seed, data))
    if not (folder / "run" / "final").is_dir():
        start = os.times()
        worldline([*training(protocol, seed, data, folder / "run"), "--resume"])
        end = os.times()
        seconds = end.children_user + end.children_system - start.children_user - start.children_system
        with (folder / "minutes.txt").open("a", encoding="utf-8") as file:
            print(seconds / 60, file=file)
    measured = folder / "obeyed.json"
    if not measured.is_file():
        measured.write_text(json.dumps(obey(protocol, folder), indent=1) + "\n", encoding="utf-8")


def collecting(protocol: Protocol, seed: int, data: Path) -> list[str]:
    """Return the command that collects a seed's data; the data of two seeds have no episode in common."""
    return [
        *("worldline", "collect", protocol.env, *shlex.split(protocol.env_settings)),
        *("--policy", "mixed", "--episodes", "2000", "--seed", str(10_000 * seed), "--out", str(data)),
    ]


def training(protocol: Protocol, seed: int, data: Path, out: Path) -> list[str]:
    """Return the command that trains a seed."""
    return [
        *("worldline", "train", "udrl:base", "--data", str(data), *shlex.split(protocol.options)),
        *("--seed", str(seed), "--num-threads", "1", "--save-interval", "1000", "--out", str(out)),
    ]


def worldline(command: list[str]) -> None:
    """Run a command of `worldline` on one thread."""
    program = [sys.executable, "-m", "worldline", *command[1:]]
    done = subprocess.run(program, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(done.returncode)


def obey(protocol: Protocol, folder: Path) -> list[dict[str, Any]]:
    """Tell the trained model every command, and return what it was told and what it did."""
    model = load_model(folder / "run" / "final")
    settings = {"continuous": True} if "continuous" in protocol.env_settings else {}
    buffer = ReplayBuffer.load(folder / "data.npz")
    done = []
    for kind, (spacing, deterministic) in KINDS.items():
        for command in commands_in(buffer, NUM_COMMANDS, spacing=spacing):
            start = time.process_time()
            result = evaluate_policy(
                lambda: make_env(protocol.env, **settings),
                CommandedPolicy(model, command),
                num_episodes=NUM_EPISODES,
                num_envs=NUM_EPISODES,
                seed=EVAL_SEED,
                deterministic=deterministic,
            )
            found = {"kind": kind, "steps": command[0], "return": command[1]}
            done.append(
                {**found, "returns": [round(value, 2) for value in result.returns], "lengths": list(result.lengths)}
            )
            print(
                f"{kind}: told {command[0]:.0f} steps, return {command[1]:.1f}; did {np.mean(result.lengths):.0f}, "
                f"{result.mean:.1f} +- {result.std:.1f}; {time.process_time() - start:.0f} s",
                flush=True,
            )
    return done


def summary(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what some commands came to."""
    return {
        **dataclasses.asdict(agreement([item["return"] for item in measured], [item["returns"] for item in measured])),
        "commands": [
            {
                **{key: item[key] for key in ("steps", "return")},
                "obtained_return": float(np.mean(item["returns"])),
                "interval95": list(mean_interval95(item["returns"])),
                "obtained_steps": float(np.mean(item["lengths"])),
            }
            for item in measured
        ],
    }


def write(name: str, protocol: Protocol, runs: Path) -> None:
    """Write what all seeds that are finished came to, and draw it."""
    seeds = {}
    for path in sorted(runs.glob(f"{name}-[0-9]*/obeyed.json")):
        measured = json.loads(path.read_text(encoding="utf-8"))
        minutes = (path.parent / "minutes.txt").read_text(encoding="utf-8").split()
        seeds[path.parent.name.rsplit("-", 1)[1]] = {
            "training_minutes": sum(map(float, minutes)),
            **{kind: summary([item for item in measured if item["kind"] == kind]) for kind in KINDS},
        }
    data = Path("data.npz")
    found = {
        "collect": shlex.join(collecting(protocol, 0, data)),
        "train": shlex.join(training(protocol, 0, data, Path("OUT"))),
        "episodes": NUM_EPISODES,
        "asked": {"spearman": SPEARMAN, "slope": SLOPES},
        "environment": {"torch": torch.__version__, "python": platform.python_version(), "threads": 1},
        "seeds": seeds,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(name, seeds)


def draw(name: str, seeds: dict[str, Any]) -> None:
    """Draw desired against obtained returns, one line a seed."""
    lines = [
        Series(
            name=f"seed {seed}",
            x=[command["return"] for command in found[EVEN]["commands"]],
            y=[command["obtained_return"] for command in found[EVEN]["commands"]],
            color=color,
            intervals=[tuple(command["interval95"]) for command in found[EVEN]["commands"]],
        )
        for (seed, found), color in zip(seeds.items(), ("accent", "second", "third"), strict=False)
    ]
    ends = [f([x for line in lines for x in line.x]) for f in (min, max)]
    lines.append(Series(name="as told", x=ends, y=ends, color="muted", is_dashed=True))
    drawn = line_chart(
        LineChart(title=name, series=lines, x_label="return that was asked for", y_label="mean return of 50 episodes")
    )
    (RESULTS / f"{name}.svg").write_text(standalone(drawn), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
