"""Step CartPole in 8 environments with random actions: `make_vec_env` against a bare Gymnasium vector loop.

Both sides get actions drawn beforehand. Also measured: all of collecting, from a random policy's actions to episodes in
the replay buffer, and Gymnasium's CartPole that computes all 8 environments in one NumPy call, which is another
implementation of the environment rather than a way to step any.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from worldline.data.buffer import ReplayBuffer
from worldline.data.online import OnlineSampler
from worldline.envs.make import make_vec_env
from worldline.evaluation.rollout import RandomPolicy

ENV = "CartPole-v1"
NUM_ENVS = 8
STEPS = 1000
REPETITIONS = 15
LIMIT = 1.3


def main() -> None:
    """Run every case in turn and print the JSON object."""
    torch.set_num_threads(1)
    choices = np.random.default_rng(0).integers(0, 2, (STEPS, NUM_ENVS))
    bare, ours = make_bare("sync"), make_vec_env(ENV, NUM_ENVS)
    ours.reset(seed=0)
    rows = np.eye(2, dtype=np.float32)[choices]
    cases: dict[str, Callable[[], object]] = {
        "bare loop, SyncVectorEnv": lambda: [bare.step(actions) for actions in choices],
        "make_vec_env": lambda: [ours.step(actions) for actions in rows],
        "collecting, OnlineSampler": make_collecting(),
    }
    one_call = make_bare("vector_entry_point")
    cases["bare loop, one NumPy environment"] = lambda: [one_call.step(actions) for actions in choices]
    micros = interleaved(cases)
    floor = micros["bare loop, SyncVectorEnv"]
    results: list[dict[str, Any]] = [
        {"case": name, "step_us": round(value, 1), "env_steps_per_second": round(NUM_ENVS / value * 1e6)}
        | {"ratio": round(value / floor, 3)}
        | ({"limit": LIMIT} if name == "make_vec_env" else {})
        for name, value in micros.items()
    ]
    print(json.dumps({"name": "envs", "rows": results, "environment": environment()}, indent=2))


def make_bare(mode: str) -> Any:
    """Return Gymnasium's own vector environment, begun."""
    env = gym.make_vec(ENV, NUM_ENVS, vectorization_mode=mode)
    env.reset(seed=0)
    return env


def make_collecting() -> Callable[[], object]:
    """Return what collects `STEPS` steps of all environments with random actions."""
    env = make_vec_env(ENV, NUM_ENVS)
    spec = env.data_spec
    buffer = ReplayBuffer(1_000_000, spec.obs_shape, spec.action_dim, action_sizes=spec.action_sizes)
    policy = RandomPolicy(spec)
    sampler = OnlineSampler(env, policy, buffer, seed_policy=policy, seed_steps=0, replay_ratio=1.0)

    def collect() -> None:
        # A sample for the last of as many optimiser steps as there shall be environment steps: it takes all of them.
        sampler.seek(seed=0, step=sampler.env_steps + NUM_ENVS * STEPS - 1)
        sampler.sample(1, 1)

    return collect


def interleaved(cases: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median microseconds that a step of all environments takes in each case, measured in turn."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(REPETITIONS):
        for name, case in cases.items():
            begin = time.perf_counter()
            case()
            times[name].append((time.perf_counter() - begin) / STEPS)
    return {name: statistics.median(own[1:]) * 1e6 for name, own in times.items()}


def environment() -> dict[str, Any]:
    """Return what the numbers depend on."""
    return {
        "python": platform.python_version(),
        "gymnasium": gym.__version__,
        "numpy": np.__version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    main()
