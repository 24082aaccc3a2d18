"""Learning curves online: each protocol is one `worldline train --env` command, run once for each seed.

A run that was stopped goes on where it was; one that is finished is not run again. Writes the curves of all seeds into
results/curves/NAME.json, with the command and the minutes that each took, and a plot beside it.

    python benchmarks/online.py                        # what there is
    python benchmarks/online.py cartpole-dreamerv3     # run three seeds of a protocol, or go on
    python benchmarks/online.py cartpole-tdmpc2 --seeds 0
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from worldline.report.svg import LineChart, Series, line_chart

HERE = Path(__file__).parent
CURVES = HERE / "results" / "curves"
# Colours without variables, which not every program that shows SVG knows
COLORS = {"accent": "#1a56db", "second": "#c2410c", "third": "#15803d", "muted": "#777"}
STYLE = (
    "<style>svg{font:12px sans-serif;background:#fff}path,polyline{fill:none}.line{stroke-width:1.5}"
    + "".join(f".line.{name}{{stroke:{color}}}.dot.{name}{{fill:{color}}}" for name, color in COLORS.items())
    + ".dashed{stroke-dasharray:5 4}.hover{fill:none}.grid{stroke:#ddd}.axis{stroke:#999}text{fill:#333}</style>"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """What to train on what, and which return is the goal."""

    model: str
    env: str
    options: str
    goal: float


DREAMERV3 = "--batch-size 8 --sequence-length 32 --learning-rate 4e-4 --num-envs 4"
SPARSE = f"{DREAMERV3} --replay-ratio 0.25 --eval-interval 500"
# The mean of the last 500 weights is what acts in evaluations.
MEAN = "--ema-decay 0.998"
AVERAGED = f"{DREAMERV3} --replay-ratio 0.5 {MEAN} --eval-interval 1000"  # twice as many updates
FADING = f"{AVERAGED} --schedule linear"
TDMPC2 = "--batch-size 256 --sequence-length 4 --replay-ratio 1 --num-envs 4 --eval-interval 2000"
# With the published rates, values of a reward of 1 at every step reach one step further ahead in about 100 updates,
# and a cart that drifts needs 80 steps of foresight.
FAST_VALUES = "--set latent=128 --set units=128 --set target_rate=0.05 --learning-rate 1e-3"
# A quarter of the published samples, for a laptop
FEW_SAMPLES = "--set episodic=false --set plan_samples=128 --set plan_elites=16"
# 1,000 steps an episode, two to an action: 50,000 in all, as the published curves count.
DMC = (
    "--batch-size 256 --sequence-length 4 --replay-ratio 1 --eval-interval 4000 --env-set action_repeat=2 "
    f"{FEW_SAMPLES} {MEAN} --env-steps 25000"
)
PROTOCOLS = {
    "cartpole-dreamerv3": Protocol(
        model="dreamerv3:size1m", env="CartPole-v1", options=f"{AVERAGED} --env-steps 20000", goal=475
    ),
    "cartpole-dreamerv3-sparse": Protocol(
        model="dreamerv3:size1m", env="CartPole-v1", options=f"{SPARSE} --env-steps 20000", goal=475
    ),
    "cartpole-tdmpc2": Protocol(
        model="tdmpc2:1m", env="CartPole-v1", options=f"{TDMPC2} {FAST_VALUES} {MEAN} --env-steps 20000", goal=475
    ),
    "cartpole-tdmpc2-short": Protocol(
        model="tdmpc2:1m", env="CartPole-v1", options=f"{TDMPC2} {FAST_VALUES} --env-steps 10000", goal=475
    ),
    "pendulum-dreamerv3": Protocol(
        model="dreamerv3:size1m", env="Pendulum-v1", options=f"{FADING} --env-steps 20000", goal=-200
    ),
    "pendulum-dreamerv3-constant": Protocol(
        model="dreamerv3:size1m", env="Pendulum-v1", options=f"{AVERAGED} --env-steps 20000", goal=-200
    ),
    "pendulum-dreamerv3-sparse": Protocol(
        model="dreamerv3:size1m", env="Pendulum-v1", options=f"{SPARSE} --env-steps 20000", goal=-200
    ),
    "pendulum-tdmpc2": Protocol(
        model="tdmpc2:1m",
        env="Pendulum-v1",
        options=f"{TDMPC2} {FEW_SAMPLES} --env-steps 10000",
        goal=-200,
    ),
    "dmc-cartpole-balance-tdmpc2": Protocol(model="tdmpc2:1m", env="dmc:cartpole-balance", options=DMC, goal=950),
    "dmc-walker-stand-tdmpc2": Protocol(model="tdmpc2:1m", env="dmc:walker-stand", options=DMC, goal=981),
    "dmc-reacher-easy-tdmpc2": Protocol(model="tdmpc2:1m", env="dmc:reacher-easy", options=DMC, goal=937),
}


def main() -> int:
    """Run what the command line names and write the curves; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PROTOCOLS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/online"), help="the folder of the runs")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in PROTOCOLS]:
        parser.error(f"no protocol is called {', '.join(unknown)}; there are {', '.join(PROTOCOLS)}")
    for name in options.names:
        for seed in options.seeds:
            run(PROTOCOLS[name], seed, options.out / f"{name}-{seed}")
        write(name, PROTOCOLS[name], options.out)
    for path in sorted(CURVES.glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        last = [curve["return"][-1] for curve in found["seeds"].values()]
        mean, seeds = statistics.mean(last), ", ".join(found["seeds"])
        print(f"{path.stem:30} goal {found['goal']:g}: {mean:.1f} at the end, seeds {seeds}")
    return 0


def command(protocol: Protocol, seed: int, out: Path) -> list[str]:
    """Return the command of one run; evaluations are of 20 episodes, every 2,000 environment steps."""
    return [
        *("worldline", "train", protocol.model, "--env", protocol.env, *shlex.split(protocol.options)),
        *("--seed", str(seed), "--num-threads", "1", "--eval-episodes", "20"),
        *("--save-interval", "500", "--out", str(out)),
    ]


def run(protocol: Protocol, seed: int, out: Path) -> None:
    """Run, or go on with, one seed, and add what it took to `minutes.txt`."""
    if (out / "final").is_dir():
        return
    start = time.perf_counter()
    worldline = Path(sys.executable).with_name("worldline")
    arguments = command(protocol, seed, out)[1:]
    done = subprocess.run([worldline, *arguments, "--resume"], env=os.environ | {"OMP_NUM_THREADS": "1"})
    with (out / "minutes.txt").open("a", encoding="utf-8") as file:
        print((time.perf_counter() - start) / 60, file=file)
    if done.returncode:
        raise SystemExit(done.returncode)


def write(name: str, protocol: Protocol, runs: Path) -> None:
    """Write the curves of all seeds that are finished."""
    finished = [path for path in sorted(runs.glob(f"{name}-[0-9]*")) if (path / "final").is_dir()]
    seeds = {path.name.rsplit("-", 1)[1]: curve(path) for path in finished}
    found = {
        "command": shlex.join(command(protocol, 0, Path("OUT"))),
        "goal": protocol.goal,
        "environment": {"torch": torch.__version__, "python": platform.python_version(), "threads": 1},
        "seeds": {seed: points for seed, points in seeds.items() if points["return"]},
    }
    CURVES.mkdir(parents=True, exist_ok=True)
    (CURVES / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    lines = [
        Series(name=f"seed {seed}", x=points["env_steps"], y=points["return"], color=color)
        for (seed, points), color in zip(found["seeds"].items(), ("accent", "second", "third"), strict=False)
    ]
    steps = [step for line in lines for step in line.x]
    goal = Series(name="goal", x=[min(steps), max(steps)], y=[protocol.goal] * 2, color="muted", is_dashed=True)
    lines.append(goal)
    chart = LineChart(title=name, series=lines, x_label="environment steps", y_label="return of 20 episodes")
    drawn = line_chart(chart)
    end = drawn.index(">")
    head = drawn[:end] if "xmlns=" in drawn[:end] else drawn[:end] + ' xmlns="http://www.w3.org/2000/svg"'
    (CURVES / f"{name}.svg").write_text(head + ">" + STYLE + drawn[end + 1 :] + "\n", encoding="utf-8")


def curve(path: Path) -> dict[str, Any]:
    """Return the evaluations of one run."""
    lines = (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines() if path.is_dir() else []
    rows = [row for row in map(json.loads, lines) if "eval/return" in row]
    minutes = path / "minutes.txt"
    return {
        "env_steps": [row["env_steps"] for row in rows],
        "return": [row["eval/return"] for row in rows],
        "std": [row["eval/return_std"] for row in rows],
        "low95": [row["eval/return_low95"] for row in rows],
        "high95": [row["eval/return_high95"] for row in rows],
        "minutes": round(sum(map(float, minutes.read_text().split())), 1) if minutes.is_file() else None,
    }


if __name__ == "__main__":
    sys.exit(main())
