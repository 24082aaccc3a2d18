"""Success of the robot's experts, and what a step of each environment costs.

    python benchmarks/robot.py                 # 200 episodes of each; writes results/robot.json
    python benchmarks/robot.py --episodes 20

Times are CPU time of one process (`OMP_NUM_THREADS=1`), so that other programs on the machine change them little.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from worldline.envs.make import make_env
from worldline.envs.robot.arm import PHYSICS_STEPS
from worldline.envs.robot.experts import Expert
from worldline.evaluation.rollout import evaluate_policy

RESULTS = Path(__file__).parent / "results" / "robot.json"
TASKS = ("reach", "pick_place", "language_reach")
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "randomized": {"randomization": {}},
    "disturbed, action_noise 0.25": {"action_noise": 0.25},
}
STEPS = 500
REPETITIONS = 7


def main() -> None:
    """Measure everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1_000_000)
    arguments = parser.parse_args()
    rows = []
    for task in TASKS:
        cost = costs(f"robot:{task}")
        for name, settings in SETTINGS.items():
            row = success(f"robot:{task}", settings, num_episodes=arguments.episodes, seed=arguments.seed)
            rows.append({"env": f"robot:{task}", "setting": name, **row, **(cost if name == "plain" else {})})
            print(rows[-1], flush=True)
    result = {"name": "robot", "rows": rows, "environment": environment()}
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def success(env_id: str, settings: dict[str, Any], *, num_episodes: int, seed: int) -> dict[str, Any]:
    """Return what the expert achieves."""
    result = evaluate_policy(lambda: make_env(env_id, **settings), Expert(env_id), num_episodes=num_episodes, seed=seed)
    assert result.success_interval95 is not None
    low, high = result.success_interval95
    return {
        "episodes": num_episodes,
        "success": result.success_rate,
        "interval95": f"{low:.3f} to {high:.3f}",
        "mean_steps": round(statistics.fmean(result.lengths), 1),
        "mean_return": round(result.mean, 2),
    }


def costs(env_id: str) -> dict[str, Any]:
    """Return microseconds of CPU: of a step, of its physics alone, of one with an image, and of a reset."""
    env, seen = make_env(env_id), make_env(env_id, observe="both")
    bare = env.unwrapped
    generator = np.random.default_rng(0)
    actions = generator.uniform(-1, 1, (STEPS, 4)).astype(np.float32)

    def step(env: Any) -> Callable[[], None]:
        def run() -> None:
            env.reset(seed=0)
            for action in actions[:90]:
                env.step(action)

        return run

    def physics() -> None:
        for _ in range(90):
            mujoco.mj_step(bare._model, bare._data, PHYSICS_STEPS)

    def reset() -> None:
        for seed in range(90):
            bare.reset(seed=seed)

    times = interleaved(
        {"step": step(env), "physics": physics, "image": step(seen), "bare": step(bare), "reset": reset}
    )
    return {
        "step_us": round(times["step"]),
        "steps_per_second": round(1e6 / times["step"]),
        "physics_us": round(times["physics"]),
        "conversion_us": round(times["step"] - times["bare"]),
        "reset_us": round(times["reset"]),
        "step_with_64x64_image_us": round(times["image"]),
    }


def interleaved(cases: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Return the least microseconds of CPU that one of 90 steps takes in each case, measured in turn."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(REPETITIONS):
        for name, case in cases.items():
            begin = time.process_time()
            case()
            times[name].append((time.process_time() - begin) / 90 * 1e6)
    return {name: min(own) for name, own in times.items()}


def environment() -> dict[str, Any]:
    """Return what the numbers depend on."""
    return {
        "python": platform.python_version(),
        "mujoco": mujoco.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "threads": 1,
    }


if __name__ == "__main__":
    main()
