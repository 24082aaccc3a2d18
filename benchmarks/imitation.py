"""Imitation in closed loop: policies learnt from an expert's demonstrations, by their success in the simulator.

For each task, demonstrations are recorded once, by the expert; each policy is trained on them by one
`worldline train` command for each seed and run for 200 episodes it has not seen. A run that was stopped goes on where
it was; one that is finished is only evaluated. Writes results/imitation/robot.json, with Wilson intervals at 95%.

    python benchmarks/imitation.py                                   # what there is
    python benchmarks/imitation.py reach:bc pick_place:flow_policy   # three seeds of each
    python benchmarks/imitation.py language_reach:vla --seeds 0
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldline import ReplayBuffer, load_model
from worldline.envs.make import make_env
from worldline.envs.robot.experts import Expert
from worldline.envs.robot.language import LANGUAGE, encode_language
from worldline.envs.robot.tasks import COLORS, INSTRUCTIONS
from worldline.episode import Episode
from worldline.evaluation.rollout import collect_episodes, evaluate_policy

RESULTS = Path(__file__).parent / "results" / "imitation" / "robot.json"
NUM_EPISODES, EVAL_SEED, NUM_ENVS = 200, 4_000_000, 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What to imitate."""

    num_demonstrations: int
    observe: str = "state"
    keys: tuple[str, ...] = ()  # what the policies observe; empty: all there is


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What to train, and how much success is the goal."""

    model: str
    options: str
    goal: float


TASKS = {
    "reach": Task(num_demonstrations=100),
    "pick_place": Task(num_demonstrations=200),
    "language_reach": Task(num_demonstrations=10_000, observe="both", keys=("pixels", LANGUAGE, "ee_pos", "joint_pos")),
}
COMMON = "--schedule cosine --warmup-steps 200 --grad-clip 10 --weight-decay 1e-4 --save-interval 500 --num-threads 1"
ONE = f"{COMMON} --sequence-length 1 --batch-size 256 --learning-rate 1e-3 --set normalization=standard"
CHUNKS = f"{COMMON} --sequence-length 16 --batch-size 128 --precision bf16"
DENOISING = f"{CHUNKS} --learning-rate 1e-3 --ema-decay 0.995 --set mlp_units=256 --total-steps 4000"
RUNS = {
    "reach:bc": Run(model="bc:small", options=f"{ONE} --set loss=squared --total-steps 3000", goal=0.95),
    "pick_place:bc": Run(model="bc:base", options=f"{ONE} --set loss=squared --total-steps 6000", goal=0.8),
    "pick_place:act": Run(model="act:small", options=f"{CHUNKS} --learning-rate 5e-4 --total-steps 4000", goal=0.8),
    "pick_place:diffusion_policy": Run(model="diffusion_policy:small", options=DENOISING, goal=0.8),
    "pick_place:flow_policy": Run(model="flow_policy:small", options=DENOISING, goal=0.8),
    "language_reach:vla": Run(
        model="vla:small",
        # The camera does not move, and a pixel is a centimetre: images that are moved would not fit the arm's position.
        # Only the first two or three of an episode's eleven steps need the instruction, for the arm soon points at the
        # target: it takes many episodes, and some 5,000 steps before any of them is understood.
        options=f"{COMMON} --sequence-length 8 --batch-size 64 --learning-rate 1e-3 --ema-decay 0.999 --precision bf16 "
        "--set horizon=8 --set num_executed=4 --set head=regression --set size=96 --set layers=3 --set units=384 "
        "--set image_widths=[16,32,64] --set image_shift=0 --total-steps 16000",
        goal=0.9,
    ),
}


def main() -> int:
    """Run what the command line names and write the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="TASK:POLICY", help=", ".join(RUNS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/imitation"), help="the folder of the runs")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in RUNS]:
        parser.error(f"no run is called {', '.join(unknown)}; there are {', '.join(RUNS)}")
    torch.set_num_threads(1)
    for name in options.names:
        task = name.partition(":")[0]
        data = options.out / f"{task}.npz"
        if not data.is_file():
            options.out.mkdir(parents=True, exist_ok=True)
            demonstrate(task, data)
        for seed in options.seeds:
            out = options.out / f"{name.replace(':', '-')}-{seed}"
            arguments = command(RUNS[name], data, out, seed)
            train(arguments, out)
            shown = shlex.join(command(RUNS[name], Path("DEMONSTRATIONS"), Path("OUT"), seed))
            found = {"command": shown, "cpu_minutes": minutes(out), **evaluate(task, out)}
            write_table(RESULTS, f"{name}-{seed}", found)
            print(f"{name} seed {seed}: {found['success']:.1%}, goal {RUNS[name].goal:.0%}", flush=True)
    return 0


def demonstrate(name: str, target: Path) -> None:
    """Record what the expert does, and keep what the policies shall observe."""
    task, env_id = TASKS[name], f"robot:{name}"
    episodes = collect_episodes(
        lambda: make_env(env_id, observe=task.observe),
        Expert(env_id),
        num_episodes=task.num_demonstrations,
        seed=0,
        num_envs=NUM_ENVS,
    )
    kept = [dataclasses.replace(episode, **_kept(episode, task)) for episode in episodes]
    ReplayBuffer.from_episodes(kept, action_dim=4, action_sizes=()).save(target)


def _kept(episode: Episode, task: Task) -> dict[str, Any]:
    """Return the observations of an episode that the policies shall see."""
    assert isinstance(episode.obs, dict)
    assert isinstance(episode.final_obs, dict)
    keys = task.keys or tuple(episode.obs)
    return {
        "obs": {key: episode.obs[key] for key in keys},
        "final_obs": {key: episode.final_obs[key] for key in keys},
    }


def command(run: Run, data: Path, out: Path, seed: int) -> list[str]:
    """Return the command that trains one policy."""
    start = ["worldline", "train", run.model, "--data", str(data), "--out", str(out), "--seed", str(seed)]
    return [*start, *shlex.split(run.options)]


def train(arguments: list[str], out: Path) -> None:
    """Train, or go on, and add the CPU time that it took to `minutes.txt`."""
    if (out / "final").is_dir():
        return
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", *arguments, "--resume"], env=os.environ | {"OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if out.is_dir():
        with (out / "minutes.txt").open("a", encoding="utf-8") as file:
            print((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60, file=file)
    if done.returncode:
        raise SystemExit(done.returncode)


def minutes(out: Path) -> float | None:
    """Return the CPU minutes that a run's training took, all its parts together; None where they are not known."""
    path = out / "minutes.txt"
    return round(sum(map(float, path.read_text(encoding="utf-8").split())), 1) if path.is_file() else None


def evaluate(name: str, out: Path) -> dict[str, Any]:
    """Run the final policy; where there are instructions, also with false ones, and without images."""
    policy = load_model(out / "final")
    found = _success(name, policy)
    if LANGUAGE in TASKS[name].keys:
        found["false_instructions"] = _success(name, Misled(policy, language=True))
        found["blank_images"] = _success(name, Misled(policy, language=False))
    return found


def _success(name: str, policy: Any) -> dict[str, Any]:
    start = time.process_time()
    result = evaluate_policy(
        lambda: make_env(f"robot:{name}", observe=TASKS[name].observe),
        policy,
        num_episodes=NUM_EPISODES,
        seed=EVAL_SEED,
        num_envs=NUM_ENVS,
    )
    assert result.success_rate is not None
    assert result.success_interval95 is not None
    return {
        "success": round(result.success_rate, 4),
        "interval95": [round(bound, 4) for bound in result.success_interval95],
        "mean_length": round(float(np.mean(result.lengths)), 1),
        "evaluation_cpu_seconds": round(time.process_time() - start, 1),
    }


class Misled:
    """A policy that is told something else in each episode, drawn from all instructions, or sees black images."""

    def __init__(self, policy: Any, *, language: bool) -> None:
        self._policy = policy
        self._language = language
        texts = [words.format(color) for words in INSTRUCTIONS for color in COLORS]
        self._instructions = torch.from_numpy(np.stack([encode_language(text) for text in texts]))

    def act(self, obs: Any, state: Any = None, *, is_first: Any = None, deterministic: bool = False) -> Any:
        """Choose actions; see `protocols.Policy`."""
        assert isinstance(obs, Mapping)
        drawn = self._instructions[torch.randint(len(self._instructions), (len(obs[LANGUAGE]),))]
        inner, told = (None, drawn) if state is None else state
        told = torch.where(is_first[:, None], drawn, told)
        changed = {LANGUAGE: told} if self._language else {"pixels": torch.zeros_like(obs["pixels"])}
        actions, inner = self._policy.act({**obs, **changed}, inner, is_first=is_first, deterministic=deterministic)
        return actions, (inner, told)


def write_table(path: Path, name: str, found: dict[str, Any]) -> None:
    """Add one row to a table of results."""
    table = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    environment = {"torch": torch.__version__, "python": platform.python_version(), "threads": 1}
    table[name] = {**found, "environment": environment}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(sorted(table.items())), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
