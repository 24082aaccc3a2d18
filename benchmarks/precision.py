"""Whether bf16 learns what fp32 learns: behaviour cloning of CartPole, three seeds each, `results/precision.json`.

The data is that of a policy which leans with the pole, with one action in five at random; the loss is that of episodes
that were not trained on. Noise is the standard error of the difference of the two means over the seeds.

    python benchmarks/precision.py
"""

from __future__ import annotations

import json
import math
import platform
import statistics
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from worldline.create import create_model
from worldline.data.buffer import ReplayBuffer
from worldline.episode import Episode
from worldline.training import Trainer, TrainingConfig

SEEDS = (0, 1, 2)
STEPS = 600
EPISODES = 60


def main() -> None:
    """Train six models and write the results."""
    torch.set_num_threads(1)
    train, test = record(EPISODES, seed=0), record(EPISODES // 3, seed=1000)
    rows: list[dict[str, Any]] = [
        {"precision": precision, "seed": seed, "loss": final_loss(train, test, precision, seed)}
        for seed in SEEDS
        for precision in ("fp32", "bf16")
    ]
    losses = {
        precision: [row["loss"] for row in rows if row["precision"] == precision] for precision in ("fp32", "bf16")
    }
    summary = {
        "difference_of_means": statistics.mean(losses["bf16"]) - statistics.mean(losses["fp32"]),
        "standard_error": math.sqrt(sum(statistics.variance(values) / len(SEEDS) for values in losses.values())),
    }
    rows.append({"precision": "bf16 - fp32", "seed": "mean", "loss": summary["difference_of_means"]})
    rows.append({"precision": "bf16 - fp32", "seed": "standard error", "loss": summary["standard_error"]})
    result = {
        "name": "precision",
        "rows": rows,
        "environment": {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "env": "CartPole-v1",
            "model": "bc:small",
            "steps": STEPS,
        },
    }
    path = Path(__file__).parent / "results" / "precision.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(summary))


def record(num_episodes: int, *, seed: int) -> ReplayBuffer:
    """Return episodes of the leaning policy."""
    env = gymnasium.make("CartPole-v1", max_episode_steps=200)
    generator = np.random.default_rng(seed)
    buffer = ReplayBuffer(num_episodes * 200, (4,), 2, action_sizes=(2,))
    for number in range(num_episodes):
        obs, _ = env.reset(seed=seed + number)
        rows: list[tuple[Any, int, float]] = []
        terminated = truncated = False
        while not (terminated or truncated):
            leaning = int(obs[2] + 0.5 * obs[3] > 0)
            action = int(generator.integers(2)) if generator.random() < 0.2 else leaning
            following, reward, terminated, truncated, _ = env.step(action)
            rows.append((obs, action, float(reward)))
            obs = following
        observed, actions, rewards = (np.asarray(column) for column in zip(*rows, strict=True))
        buffer.add(
            Episode(
                obs=observed.astype(np.float32),
                actions=actions,
                rewards=rewards.astype(np.float32),
                terminated=terminated,
                truncated=truncated,
                final_obs=np.asarray(obs, dtype=np.float32),
            )
        )
    return buffer


def final_loss(train: ReplayBuffer, test: ReplayBuffer, precision: str, seed: int) -> float:
    """Train one model and return its loss on other episodes, in float32."""
    torch.manual_seed(seed)
    model = create_model("bc:small", obs_shape=(4,), action_dim=2, action_type="discrete")
    settings = {"device": "cpu", "total_steps": STEPS, "batch_size": 16, "sequence_length": 32, "seed": seed}
    config = TrainingConfig(**settings, precision=precision, learning_rate=1e-3)  # type: ignore[arg-type]
    Trainer(model, config).train(train)
    judge = Trainer(model, TrainingConfig(device="cpu", batch_size=64, sequence_length=32, seed=0))
    return judge.evaluate(test, num_batches=20)["loss"]


if __name__ == "__main__":
    main()
