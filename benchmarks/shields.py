"""What shields know, how often they err, and what their agents do.

    python benchmarks/shields.py                 # what there is
    python benchmarks/shields.py gaussian        # log_prob against a known density; solvers and steps
    python benchmarks/shields.py speed           # against the arithmetic of the network, and one state at a time
    python benchmarks/shields.py lunarlander     # false alarms, detection, projection: three shields on recorded data
    python benchmarks/shields.py agent           # an agent under possible and impossible commands, five ways

`lunarlander` collects and trains what is not there yet; `agent` needs it, and trains upside-down RL if need be. A run
that was stopped goes on where it was. Writes results/shields/NAME.json and plots beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
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
from worldline.evaluation.rollout import collect_episodes
from worldline.evaluation.shields import CommandRows, evaluate_projection, evaluate_shield, is_flagged, one_row_each
from worldline.evaluation.statistics import mean_interval95, wilson_interval
from worldline.memory import keep_freed_memory
from worldline.models.commanded import CommandedPolicy
from worldline.models.shielded import ShieldedPolicy
from worldline.models.shields import BaseShield
from worldline.ops.linear import product
from worldline.report.svg import LineChart, Series, line_chart
from worldline.statistics import ColumnStatistics

RESULTS = Path(__file__).parent / "results" / "shields"
STYLE = (
    "<style>svg{font:12px sans-serif;background:#fff}.accent{--c:#1a56db}.second{--c:#c2410c}.third{--c:#15803d}"
    ".muted{--c:#777}path,polyline{fill:none}.line{stroke:var(--c);stroke-width:1.5}.dashed{stroke-dasharray:5 4}"
    ".dot{fill:var(--c)}.hover{fill:none}.grid{stroke:#ddd}.axis{stroke:#999}text{fill:#333}</style>"
)
SHIELDS = {"quantile": 4000, "diffusion": 6000, "flow_matching": 6000}  # optimiser steps of each
TRAINING = (
    "--sequence-length 1 --batch-size 1024 --learning-rate 1e-3 --schedule cosine --warmup-steps 200 --grad-clip 10 "
    "--ema-decay 0.999 --save-interval 1000"
)
ALPHAS = (0.01, 0.05, 0.1)
LUNAR = "LunarLander-v3 --env-set continuous=true"
NUM_EPISODES, EVAL_SEED = 100, 2_000_000
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
    rows, curve = [], {}
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
                draw_density(shield, one_row_each(test, seed=seed), name)
            print(row, flush=True)
            rows.append(row)
        curve[name] = [rate_over_splits(shield, held_out, alpha) for alpha in CURVE]
    draw_calibration(curve)
    return rows


CURVE = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)


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


def rate_over_splits(shield: BaseShield, held_out: ReplayBuffer, alpha: float, num_splits: int = 3) -> float:
    """Return the mean rate of false alarms over several divisions into calibration and test."""
    rates = []
    before = {name: value.clone() for name, value in shield.state_dict().items()}
    for split in range(num_splits):
        calibration, test = held_out.split(0.5, seed=100 + split)
        shield.calibrate(calibration, alpha, seed=split)
        rates.append(is_flagged(shield, one_row_each(test, seed=split)).mean())
    shield.load_state_dict(before)
    return float(np.mean(rates))


# An agent


def agent(out: Path, seed: int) -> list[dict[str, Any]]:
    """Play the same episodes to each command, five ways."""
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
    rows = []
    for command in (feasible, *IMPOSSIBLE):
        for name in ("none", "clip", *SHIELDS):
            policy: Any = CommandedPolicy(Unclamped(model) if name == "none" else model, command)
            if name in SHIELDS:
                shield: Any = load_model(folder / name / "calibrated")
                policy = ShieldedPolicy(policy, shield)
            found = collect_episodes(
                lambda: make_env("LunarLander-v3", continuous=True),
                policy,
                num_episodes=NUM_EPISODES,
                num_envs=NUM_EPISODES,
                seed=EVAL_SEED,
                deterministic=True,
            )
            values = [float(episode.rewards.sum()) for episode in found]
            crashes = sum(episode.terminated and episode.rewards[-1] <= -99 for episode in found)
            row = {
                "steps": command[0],
                "return": round(command[1], 1),
                "command": "possible" if command == feasible else "impossible",
                "shield": name,
                "mean_return": round(float(np.mean(values)), 1),
                "interval95": [round(value, 1) for value in mean_interval95(values)],
                "crash_rate": crashes / NUM_EPISODES,
                "crash_interval95": [round(value, 3) for value in wilson_interval(crashes, NUM_EPISODES)],
                "timeout_rate": sum(episode.truncated for episode in found) / NUM_EPISODES,
            }
            print(row, flush=True)
            rows.append(row)
    return rows


class Unclamped:
    """A commanded model that is told commands as they are, however far from its data."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    def command_range(self) -> tuple[Tensor, Tensor]:
        """Any steps from 1 on, any return."""
        low, _ = self.model.command_range
        return low.new_tensor([1.0, -torch.inf]), low.new_tensor([torch.inf, torch.inf])

    def choose(self, obs: Any, commands: Tensor, *, deterministic: bool = False) -> Tensor:
        """Choose as the model does."""
        actions: Tensor = self.model.choose(obs, commands, deterministic=deterministic)
        return actions


# Plots


def draw_calibration(curve: dict[str, list[float]]) -> None:
    """Write the rate of false alarms over alpha."""
    colors = dict(zip(SHIELDS, ("accent", "second", "third"), strict=True))
    series = [Series(name=name, x=CURVE, y=values, color=colors[name]) for name, values in curve.items()]
    series.append(Series(name="as promised", x=CURVE, y=CURVE, color="muted", is_dashed=True))
    chart = LineChart(title="False alarms", series=series, x_label="alpha", y_label="flagged share")
    write_svg("calibration", line_chart(chart))


def draw_density(shield: BaseShield, rows: CommandRows, name: str, *, cells: int = 44, index: int = 3) -> None:
    """Write the density at one state: shade by score, the boundary, a command beyond it and its projection."""
    assert isinstance(rows.states, Tensor)
    state = rows.states[index : index + 1]
    low, high = torch.tensor([1.0, -600.0]), torch.tensor([600.0, 400.0])
    xs, ys = (torch.linspace(float(low[axis]), float(high[axis]), cells) for axis in range(2))
    grid = torch.cartesian_prod(xs, ys)
    scores = shield.command_score(state.expand(len(grid), -1), grid)
    limit = float(shield.thresholds[0])
    size = 400 / cells
    parts = [
        f'<rect x="{(i // cells) * size:.1f}" y="{400 - (i % cells + 1) * size:.1f}" width="{size:.1f}" '
        f'height="{size:.1f}" fill="{"#1a56db" if value <= limit else "#777"}" '
        f'opacity="{0.9 * math.exp(-max(value, 0.0) / (2 * limit)):.2f}"/>'
        for i, value in enumerate(scores.tolist())
        if value < 12 * limit
    ]
    command = torch.tensor([[100.0, 380.0]])
    marks = ((command, "#c2410c"), (shield.project(state, command), "#15803d"), (rows.commands[index][None], "#000"))
    for point, color in marks:
        at = ((point[0] - low) / (high - low)).clamp(0, 1).tolist()
        parts.append(f'<circle cx="{at[0] * 400:.1f}" cy="{400 - at[1] * 400:.1f}" r="5" fill="{color}"/>')
    text = "steps (1 to 600) across, return (-600 to 400) up; blue: allowed; orange: command; green: projection"
    parts.append(f'<text x="0" y="418">{name}: {text}; black: obeyed</text>')
    write_svg(
        f"density-{name}", f'<svg viewBox="0 0 640 424" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def write_svg(name: str, svg: str) -> None:
    """Write a plot that can be looked at by itself."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    head, body = svg.split(">", 1)
    if "xmlns" not in head:
        head += ' xmlns="http://www.w3.org/2000/svg"'
    (RESULTS / f"{name}.svg").write_text(f"{head}>{STYLE}{body}\n", encoding="utf-8")


PARTS = {"gaussian": gaussian, "speed": speed, "lunarlander": lunarlander, "agent": agent}

if __name__ == "__main__":
    sys.exit(main())
