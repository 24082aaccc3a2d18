"""Push-T from human demonstrations: diffusion policy and flow policy, in the published protocol.

The data is `pusht_human_lowdim.npz` of 206 demonstrations: `action [N, 2]`, `state [N, 5]`, `keypoint [N, 18]` and
`episode_ends`. Each policy is trained by one `worldline train` command on nine points of the block and the pusher, and
run for 100 episodes of at most 300 steps in gym-pusht. A run that was stopped goes on where it was. Writes
results/pusht.json.

    python benchmarks/pusht.py --demonstrations pusht_human_lowdim.npz                  # train and evaluate both
    python benchmarks/pusht.py --demonstrations pusht_human_lowdim.npz flow_policy      # one of them
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imitation import minutes, train, write_table
from worldline import ReplayBuffer, load_model
from worldline.envs.make import make_env
from worldline.envs.pusht_envs import PIXELS
from worldline.episode import Episode
from worldline.evaluation.rollout import collect_episodes
from worldline.evaluation.statistics import bootstrap_interval, wilson_interval

RESULTS = Path(__file__).parent / "results" / "pusht.json"
POLICIES = ("diffusion_policy", "flow_policy")
OPTIONS = (
    "--sequence-length 16 --batch-size 256 --total-steps 20000 --learning-rate 5e-4 --warmup-steps 500 "
    "--schedule cosine --weight-decay 1e-6 --grad-clip 10 --ema-decay 0.999 --precision bf16 "
    "--save-interval 500 --num-threads 1"
)
NUM_EPISODES = 100
FIRST_SEED = 100_000  # as published: beyond the seeds that demonstrations could have


def main() -> int:
    """Train and evaluate what the command line names, and write the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=POLICIES, metavar="NAME", help=", ".join(POLICIES))
    parser.add_argument("--demonstrations", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/pusht"), help="the folder of the runs")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in POLICIES]:
        parser.error(f"no policy is called {', '.join(unknown)}; there are {', '.join(POLICIES)}")
    data = options.out / "demonstrations.npz"
    if not data.is_file():
        options.out.mkdir(parents=True, exist_ok=True)
        convert(options.demonstrations, data)
    for name in options.names:
        out = options.out / f"{name}-{options.seed}"
        arguments = command(name, data, out, options.seed)
        train(arguments, out)
        found = {"command": shlex.join(arguments), "cpu_minutes": minutes(out), **evaluate(out)}
        write_table(RESULTS, f"{name}-{options.seed}", found)
        print(f"{name}: score {found['score']:.3f}, success {found['success']:.0%} of {NUM_EPISODES} episodes")
    return 0


def convert(source: Path, target: Path) -> None:
    """Write the demonstrations as a data file of Worldline: actions in [-1, 1], no rewards."""
    with np.load(source, allow_pickle=False) as file:
        obs = np.concatenate([file["keypoint"], file["state"][:, :2]], 1)  # [N, 20]
        actions = file["action"] / (PIXELS / 2) - 1  # [N, 2]
        ends = file["episode_ends"].tolist()
    episodes = [
        Episode(obs=obs[start:end], actions=actions[start:end], rewards=np.zeros(end - start), terminated=False)
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]
    ReplayBuffer.from_episodes(episodes, action_dim=2, action_sizes=()).save(target)


def command(name: str, data: Path, out: Path, seed: int) -> list[str]:
    """Return the command that trains one policy."""
    return [
        "worldline",
        "train",
        name,
        "--data",
        str(data),
        "--out",
        str(out),
        "--seed",
        str(seed),
        *shlex.split(OPTIONS),
    ]


def evaluate(out: Path) -> dict[str, Any]:
    """Run the final policy and return its scores: each episode's greatest reward, which is coverage / 0.95."""
    start = time.process_time()
    torch.set_num_threads(1)
    policy = load_model(out / "final")
    episodes = collect_episodes(
        lambda: make_env("pusht"), policy, num_episodes=NUM_EPISODES, seed=FIRST_SEED, num_envs=NUM_EPISODES
    )
    scores = np.array([episode.rewards.max() for episode in episodes])
    num_successes = sum(episode.terminated for episode in episodes)
    return {
        "score": round(float(scores.mean()), 4),
        "score_interval95": [round(bound, 4) for bound in bootstrap_interval(scores)],
        "success": round(num_successes / len(episodes), 4),
        "success_interval95": [round(bound, 4) for bound in wilson_interval(num_successes, len(episodes))],
        "scores": [round(float(score), 4) for score in scores],
        "evaluation_cpu_seconds": round(time.process_time() - start, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
