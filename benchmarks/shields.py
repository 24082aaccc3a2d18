"""What shields know, how often they err, and what their agents do.

    python benchmarks/shields.py                 # what there is
    python benchmarks/shields.py gaussian        # log_prob against a known density; solvers and steps
    python benchmarks/shields.py speed           # against the arithmetic of the network, and one state at a time
    python benchmarks/shields.py lunarlander     # false alarms, detection, projection: three shields on recorded data
    python benchmarks/shields.py plots           # false alarms at several alphas, densities and boundaries in a state
    python benchmarks/shields.py agent           # an agent under possible and impossible commands, with and without

What is not there yet is collected and trained; `plots` needs `lunarlander`. A run that was stopped goes on where it
was. Writes results/shields/NAME.json and plots beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldline.create import create_model, load_model
from worldline.data.buffer import ReplayBuffer
from worldline.envs.make import make_env
from worldline.episode import Episode
from worldline.evaluation.rollout import collect_episodes
from worldline.evaluation.shields import (
    CommandRows,
    calibration_curve,
    command_map,
    evaluate_projection,
    evaluate_shield,
    one_row_each,
)
from worldline.evaluation.statistics import mean_interval95, wilson_interval
from worldline.memory import keep_freed_memory
from worldline.models.commanded import CommandedPolicy
from worldline.models.shielded import ShieldedPolicy
from worldline.models.shields import BaseShield
from worldline.ops.linear import product
from worldline.report.command_figures import calibration_chart, command_map_chart
from worldline.report.svg import LineChart, line_chart, standalone
from worldline.statistics import ColumnStatistics

RESULTS = Path(__file__).parent / "results" / "shields"
SHIELDS = {"quantile": 2000, "diffusion": 6000, "flow_matching": 6000}  # optimiser steps of each
TRAINING = (
    "--sequence-length 1 --batch-size 1024 --learning-rate 1e-3 --schedule cosine --warmup-steps 200 --grad-clip 10 "
    "--ema-decay 0.999 --save-interval 1000"
)
ALPHAS = (0.01, 0.05, 0.1)
LUNAR = "LunarLander-v3 --env-set continuous=true"
NUM_EPISODES, EVAL_SEED = 100, 2_000_000
STATE = 3  # of the held-out rows: where densities are drawn
AGENT_ALPHAS = (0.05, 0.5)  # the second one is meant for projections; it was chosen on episodes of other seeds
IMPOSSIBLE = ((100.0, 400.0), (30.0, 250.0), (300.0, 1000.0))


def main() -> int:
    """Run what the command line names; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *PARTS], metavar="NAME", help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, default=Path("runs/shields"), help="the folder of data and runs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory("cpu")
    for name in options.names:
        rows = PARTS[name](options.out, options.seed)
        environment = {"torch": torch.__version__, "python": platform.python_version(), "seed": options.seed}
        RESULTS.mkdir(parents=True, exist_ok=True)
        document = {"name": f"shields/{name}", "rows": rows, "environment": environment}
        (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for path in sorted(RESULTS.glob("*.json")):
        print(path.stem)
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
            print("  " + ", ".join(f"{key} {value}" for key, value in row.items()))
    return 0


# A density that is known


class Mixture:
    """Two normal distributions of (steps, return) whose places, widths and shares follow from a state of 3 numbers."""

    scale, shift = torch.tensor([60.0, 120.0]), torch.tensor([300.0, 50.0])

    def parts(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return means and deviations `[B, 2, 2]` and shares `[B, 2]`."""
        a, b, c = state.unbind(1)
        half = torch.full_like(a, 0.5)
        first = torch.stack((1.2 * a.sin(), 0.8 * b), 1), torch.stack((0.35 + 0.1 * c.sigmoid(), half), 1)
        second = torch.stack((0.5 * b - 1, -0.8 * a.cos() - 0.5), 1), torch.stack((half, 0.3 + 0.15 * b.sigmoid()), 1)
        share = c.sigmoid()
        means, stds = (torch.stack(pair, 1) for pair in zip(first, second, strict=True))
        return means, stds, torch.stack((share, 1 - share), 1)

    def sample(self, num: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return states `[N, 3]` and a command `[N, 2]` in each."""
        draws = torch.Generator().manual_seed(seed)
        state = torch.rand(num, 3, generator=draws) * 4 - 2
        means, stds, shares = self.parts(state)
        part = torch.multinomial(shares, 1, generator=draws)[:, 0]
        rows = torch.arange(num)
        x = means[rows, part] + stds[rows, part] * torch.randn(num, 2, generator=draws)
        return state, x * self.scale + self.shift

    def log_prob(self, state: Tensor, command: Tensor) -> Tensor:
        """Return the log-density `[B]` in nats."""
        means, stds, shares = self.parts(state)
        x = ((command - self.shift) / self.scale)[:, None]
        each = (-0.5 * ((x - means) / stds) ** 2 - stds.log()).sum(-1) - math.log(2 * math.pi)
        return torch.logsumexp(each + shares.log(), 1) - self.scale.log().sum()


def gaussian(out: Path, seed: int) -> list[dict[str, Any]]:
    """Train both densities on the mixture and compare; `typical` leaves out the least likely 5%."""
    mixture, rows = Mixture(), []
    for name in ("flow_matching", "diffusion"):
        folder = out / "gaussian" / f"{name}-{seed}"
        shield = trained_on(mixture, name, folder, seed)
        state, command = mixture.sample(4000, seed=1000 + seed)
        truth = mixture.log_prob(state, command)
        typical = truth > torch.quantile(truth, 0.05)
        exact = with_steps(shield, 64).log_prob(state, command)
        for num_steps in (4, 6, 8, 12, 16):
            found = with_steps(shield, num_steps).log_prob(state, command)
            row = {
                "shield": name,
                "solver_steps": num_steps,
                "mean_error": round((found - truth)[typical].abs().mean().item(), 4),
                "mean_solver_error": float(f"{(found - exact).abs().mean():.2g}"),
                "max_solver_error": float(f"{(found - exact).abs().max():.2g}"),
                "mass_on_grid": [round(mass, 4) for mass in masses(shield, state[:4])] if num_steps == 8 else None,
            }
            print(row, flush=True)
            rows.append(row)
    return rows


def trained_on(mixture: Mixture, name: str, folder: Path, seed: int, num_steps: int = 12_000) -> BaseShield:
    """Return a shield trained on fresh samples of the mixture, or the one that was."""
    if (folder / "config.json").is_file():
        loaded = load_model(folder)
        assert isinstance(loaded, BaseShield)
        return loaded
    torch.manual_seed(seed)
    shield = create_model(f"shield:{name}", obs_shape=(3,), action_dim=1, smoothing=0.0)
    assert isinstance(shield, BaseShield)
    state, command = mixture.sample(1_000_000, seed)
    shield.fit({"obs": ColumnStatistics.of([state.numpy()]), "commands": ColumnStatistics.of([command.numpy()])})
    optimizer = torch.optim.AdamW(shield.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in range(num_steps):
        rows = torch.randint(len(state), (1024,))
        loss = shield.pair_losses(state[rows], command[rows]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    shield.save_pretrained(folder)
    return shield


def with_steps(shield: BaseShield, num_steps: int) -> BaseShield:
    """Return the same shield with so many steps of its solver."""
    config = dataclasses.replace(shield.config, num_solver_steps=num_steps)
    other = type(shield)(config)
    other.load_state_dict(shield.state_dict())
    return other


def masses(shield: BaseShield, states: Tensor) -> list[float]:
    """Return what the density of each state sums to over a grid of commands."""
    axis = torch.linspace(-7, 7, 141)
    grid = shield.commands.inverse(torch.cartesian_prod(axis, axis))
    volume = shield.commands.scale.prod() * (axis[1] - axis[0]) ** 2
    return [float(shield.log_prob(state.expand(len(grid), -1), grid).exp().double().sum() * volume) for state in states]


# Speed


def speed(out: Path, seed: int) -> list[dict[str, Any]]:
    """Measure CPU time, the best of several, beside the machine's own matrix products."""
    return [speed_of(size) for size in ("small", "base")]


def speed_of(size: str) -> dict[str, Any]:
    """Measure one size; products and densities in turn, so that both see the same machine."""
    shield = create_model(f"shield:flow_matching:{size}", obs_shape=(8,), action_dim=2)
    assert isinstance(shield, BaseShield)
    states, commands = torch.randn(1024, 8), torch.randn(1024, 2) * 100
    data = {"obs": states.numpy(), "commands": commands.numpy()}
    shield.fit({name: ColumnStatistics.of([column]) for name, column in data.items()})
    shield.reference.copy_(torch.randn_like(shield.reference))
    shield.thresholds.fill_(1.0)
    units, layers, steps = (getattr(shield.config, name) for name in ("units", "layers", "num_solver_steps"))
    x, weight = torch.randn(3 * 1024, units), torch.randn(units, units)
    products = 4 * steps * (layers - 1)  # of one row and two tangents; the rest of the network is small
    ratios, whole, one = [], [], []
    for _ in range(9):
        arithmetic = products * seconds(lambda: product(x, weight), 10)
        whole.append(seconds(lambda: shield.log_prob(states, commands), 1))
        ratios.append(whole[-1] / arithmetic)
        one.append(seconds(lambda: shield.is_ood(states[:1], commands[:1]), 5))
    return {
        "size": size,
        "log_prob_1024_ms": round(min(whole) * 1e3, 1),
        "ratio_to_products": round(float(np.median(ratios)), 2),
        "is_ood_of_one_state_ms": round(min(one) * 1e3, 2),
    }


def seconds(function: Callable[[], Any], repeats: int) -> float:
    """Return the CPU seconds of a call."""
    function()
    start = time.process_time()
    for _ in range(repeats):
        function()
    return (time.process_time() - start) / repeats


# Recorded landings


def lunarlander(out: Path, seed: int) -> list[dict[str, Any]]:
    """Calibrate on half of the held-out episodes and measure on the other half."""
    folder = prepare(out, seed)
    train, held_out = (ReplayBuffer.load(folder / f"{name}.npz") for name in ("train", "held_out"))
    calibration, test = held_out.split(0.5, seed=seed)
    scale = torch.from_numpy(train.statistics()["commands"].std).float()
    wanted = random_commands(one_row_each(test, seed=seed), 10_000, train, seed)
    rows = []
    for name in SHIELDS:
        shield = load_model(folder / name / "final")
        assert isinstance(shield, BaseShield)
        for alpha in ALPHAS:
            shield.calibrate(calibration, alpha, seed=seed)
            result = evaluate_shield(shield, test, train=train, seed=seed)
            low, high = wilson_interval(round(alpha * result.num_episodes), result.num_episodes)
            row: dict[str, Any] = {
                "shield": name,
                "alpha": alpha,
                "false_alarms": f"{result.num_false_alarms} of {result.num_episodes}",
                "rate": round(result.false_alarm_rate, 4),
                "binomial_interval_of_alpha": [round(low, 4), round(high, 4)],
            }
            for kind, found in result.detection.items():
                row |= {f"{kind}: {key}": round(value, 4) for key, value in dataclasses.asdict(found).items()}
            if alpha == 0.05:
                shield.save_pretrained(folder / name / "calibrated")
                start = time.process_time()
                projection = evaluate_projection(shield, wanted, scale=scale)
                row |= {f"projection: {key}": value for key, value in dataclasses.asdict(projection).items()}
                row["projection_seconds"] = round(time.process_time() - start, 1)
            print(row, flush=True)
            rows.append(row)
    return rows


def prepare(out: Path, seed: int) -> Path:
    """Collect and train whatever is not there yet; return the folder."""
    folder = out / f"lunarlander-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, first_seed in (("train", 10_000 * seed), ("held_out", 1_000_000 + 10_000 * seed)):
        if not (folder / f"{name}.npz").is_file():
            arguments = f"collect {LUNAR} --policy mixed --episodes 2000 --seed {first_seed}"
            worldline(f"{arguments} --out {folder / name}.npz")
    for name, num_steps in SHIELDS.items():
        if not (folder / name / "final").is_dir():
            arguments = f"train shield:{name} --data {folder}/train.npz --out {folder / name} --seed {seed} --resume"
            worldline(f"{arguments} --total-steps {num_steps} --num-threads 1 {TRAINING}")
    return folder


def worldline(arguments: str) -> None:
    """Run a command of `worldline` on one thread."""
    command = [sys.executable, "-m", "worldline", *shlex.split(arguments)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(done.returncode)


def random_commands(rows: CommandRows, num: int, train: ReplayBuffer, seed: int) -> CommandRows:
    """Return commands in states of `rows`: a third as obeyed, a third all over the range, a third far beyond it."""
    draws = torch.Generator().manual_seed(seed)
    chosen = rows.at(torch.randint(len(rows), (num,), generator=draws))
    column = train.statistics()["commands"]
    low, high = (torch.from_numpy(limit).float() for limit in (column.low, column.high))
    within = low + (high - low) * torch.rand(num, 2, generator=draws)
    beyond = within + 3 * (high - low) * torch.randn(num, 2, generator=draws)
    kind = torch.arange(num)[:, None] % 3
    commands = torch.where(kind == 0, chosen.commands, torch.where(kind == 1, within, beyond))
    return CommandRows(states=chosen.states, commands=commands)


# An agent


def agent(out: Path, seed: int) -> list[dict[str, Any]]:
    """Play the same episodes to each command, without a shield, clipped, and with each shield at each alpha."""
    folder = prepare(out, seed)
    if not (folder / "agent" / "final").is_dir():
        training = "--batch-size 512 --sequence-length 1 --learning-rate 1e-3 --schedule cosine --total-steps 8000"
        worldline(f"train udrl:base --data {folder}/train.npz --out {folder}/agent --seed {seed} {training}")
    model: Any = load_model(folder / "agent" / "final")
    train = ReplayBuffer.load(folder / "train.npz")
    episodes = list(train.episodes())
    returns = np.array([episode.rewards.sum() for episode in episodes])
    near = np.argsort(np.abs(returns - np.quantile(returns, 0.95)))[:40]
    feasible = (float(np.median([len(episodes[i]) for i in near])), float(np.quantile(returns, 0.95)))
    held_out = ReplayBuffer.load(folder / "held_out.npz")
    calibration, _ = held_out.split(0.5, seed=seed)
    rows = [in_distribution(model, held_out)]
    ways: list[tuple[str, float | None]] = [("none", None), ("clip", None), *itertools.product(SHIELDS, AGENT_ALPHAS)]
    for name, alpha in ways:
        shield: Any = None if alpha is None else load_model(folder / name / "final")
        if alpha is not None:
            shield.calibrate(calibration, alpha, seed=seed)
        for command in (feasible, *IMPOSSIBLE):
            policy: Any = CommandedPolicy(model, command, clips=name != "none")
            row = {
                "steps": command[0],
                "return": round(command[1], 1),
                "command": "possible" if command == feasible else "impossible",
                "shield": name,
                "alpha": alpha,
                **measures(
                    play(policy if shield is None else ShieldedPolicy(policy, shield), num_episodes=NUM_EPISODES)
                ),
            }
            print(row, flush=True)
            rows.append(row)
    return rows


def in_distribution(model: Any, held_out: ReplayBuffer) -> dict[str, Any]:
    """Return a row of what the agent does when it is told what held-out episodes did, another one each time."""
    found = []
    for index, episode in zip(range(NUM_EPISODES), held_out.episodes(), strict=False):
        told = CommandedPolicy(model, (len(episode), float(episode.rewards.sum())))
        found += play(told, num_episodes=1, seed=EVAL_SEED + index)
    row = {"steps": None, "return": None, "command": "of held-out episodes", "shield": "none", **measures(found)}
    print(row, flush=True)
    return row


def play(policy: Any, *, num_episodes: int, seed: int = EVAL_SEED) -> list[Episode]:
    """Return episodes of a policy that takes its likeliest actions."""
    return collect_episodes(
        lambda: make_env("LunarLander-v3", continuous=True),
        policy,
        num_episodes=num_episodes,
        num_envs=num_episodes,
        seed=seed,
        deterministic=True,
    )


def measures(episodes: list[Episode]) -> dict[str, Any]:
    """Return what the episodes returned, how many crashed and of how many time ran out."""
    values = [float(episode.rewards.sum()) for episode in episodes]
    crashes = sum(episode.meta["crashed"] for episode in episodes)
    return {
        "mean_return": round(float(np.mean(values)), 1),
        "interval95": [round(value, 1) for value in mean_interval95(values)],
        "crash_rate": crashes / len(episodes),
        "crash_interval95": [round(value, 3) for value in wilson_interval(crashes, len(episodes))],
        "timeout_rate": sum(episode.truncated for episode in episodes) / len(episodes),
    }


# Plots


def plots(out: Path, seed: int) -> list[dict[str, Any]]:
    """Draw the false alarms over alpha, and for each shield what it allows in the state of one held-out row."""
    folder = prepare(out, seed)
    train, held_out = (ReplayBuffer.load(folder / f"{name}.npz") for name in ("train", "held_out"))
    calibration, test = held_out.split(0.5, seed=seed)
    row = one_row_each(test, seed=seed).at(torch.tensor([STATE]))
    shields = {name: load_model(folder / name / "calibrated") for name in SHIELDS}
    rows, curves = [], {}
    for name, shield in shields.items():
        assert isinstance(shield, BaseShield)
        draw_density(shield, row, train, name)
        curve = calibration_curve(shield, calibration, test, seed=seed)
        curves[name] = [(point.alpha, point.rate, point.interval95) for point in curve]
        rows += [
            {"shield": name, **dataclasses.asdict(point), "interval95": [round(end, 4) for end in point.interval95]}
            for point in curve
        ]
    write_chart("calibration", calibration_chart(curves))
    return rows


def draw_density(shield: BaseShield, row: CommandRows, train: ReplayBuffer, name: str) -> None:
    """Write what the shield says of commands in the state of `row`: one beyond it, its projection, what was obeyed."""
    column = train.statistics()["commands"]
    low, high = (tuple(map(float, limits)) for limits in (column.low, column.high))
    told = (100.0, 380.0)
    found = command_map(shield, row.states, low=(1.0, low[1]), high=(high[0], max(high[1], told[1])), num_cells=64)
    projected = shield.project(row.states, torch.tensor([told]))[0].tolist()
    obeyed = row.commands[0].tolist()
    chart = command_map_chart(
        f"{name}: commands in one state",
        steps=found.steps,
        returns=found.returns,
        log_density=found.log_density,
        excess=found.excess,
        points={"told": told, "projection": (projected[0], projected[1]), "obeyed": (obeyed[0], obeyed[1])},
    )
    write_chart(f"density-{name}", chart)


def write_chart(name: str, chart: LineChart) -> None:
    """Write a plot that can be looked at by itself."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.svg").write_text(standalone(line_chart(chart)), encoding="utf-8")


PARTS = {"gaussian": gaussian, "speed": speed, "lunarlander": lunarlander, "plots": plots, "agent": agent}

if __name__ == "__main__":
    sys.exit(main())
