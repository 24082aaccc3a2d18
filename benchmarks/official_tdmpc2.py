"""The published code of TD-MPC2 (nicklashansen/tdmpc2), made to run on a CPU, for `bench_tdmpc2.py`.

That code is no part of this project: TDMPC2_CODE names the folder of a copy, the one with `tdmpc2.py`. It needs the
package tensordict.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

# What the code takes for granted, and what it says instead: that there is a GPU, for which Adam keeps its steps; and
# that networks can be moved there, which recent versions of tensordict refuse.
ON_CPU = {
    "cuda:0": "cpu",
    "capturable=True": "capturable=False",
    "WorldModel(cfg).to(self.device)": "WorldModel(cfg)",
}
SETTINGS: dict[str, Any] = {
    "task": "benchmark", "obs": "state", "episodic": False, "multitask": False, "episode_length": 1000,
    "reward_coef": 0.1, "value_coef": 0.1, "termination_coef": 1, "consistency_coef": 20,
    "rho": 0.5, "lr": 3e-4, "enc_lr_scale": 0.3, "grad_clip_norm": 20, "tau": 0.01, "discount_denom": 5,
    "discount_min": 0.95, "discount_max": 0.995, "mpc": True, "iterations": 6, "num_samples": 512, "num_elites": 64,
    "num_pi_trajs": 24, "min_std": 0.05, "max_std": 2, "temperature": 0.5, "log_std_min": -10,
    "log_std_max": 2, "entropy_coef": 1e-4, "num_bins": 101, "vmin": -10, "vmax": 10, "bin_size": 0.2,
    "num_enc_layers": 2, "enc_dim": 256, "mlp_dim": 512, "latent_dim": 512, "task_dim": 0, "num_q": 5,
    "dropout": 0.01, "simnorm_dim": 8, "compile": False,
}  # fmt: skip


def official_steps(batch: int, horizon: int, obs_dim: int, action_dim: int) -> dict[str, Callable[[str], None]] | None:
    """Return what takes one training step, and what plans one action, of the published 5M model; by precision.

    None where TDMPC2_CODE is not set. It is not compiled, which its settings ask for on a GPU (in float32 on a CPU that
    makes no difference to an update, and 13% to a plan). In bf16, autocast is on for all of it: the code has no mixed
    precision itself.
    """
    code = os.environ.get("TDMPC2_CODE")
    if not code:
        return None
    sizes = {"batch_size": batch, "horizon": horizon, "obs_shape": {"state": (obs_dim,)}, "action_dim": action_dim}
    agent = _load(Path(code))(SimpleNamespace(**SETTINGS, **sizes))
    generator = torch.Generator().manual_seed(0)
    obs = torch.randn(horizon + 1, batch, obs_dim, generator=generator)
    actions = 2 * torch.rand(horizon, batch, action_dim, generator=generator) - 1
    rewards = torch.randn(horizon, batch, 1, generator=generator)

    def update(precision: str) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            agent._update(obs, actions, rewards, torch.zeros_like(rewards))

    def plan(precision: str) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            agent.act(obs[0, 0])

    return {"update": update, "plan": plan}


def _load(code: Path) -> Any:
    """Return the class of the agent, from a copy of its modules that says `ON_CPU`."""
    if not (code / "tdmpc2.py").is_file():
        raise SystemExit(f"TDMPC2_CODE must name the folder with the official tdmpc2.py; there is none in {code}.")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(code / "tdmpc2.py", folder)
        shutil.copytree(code / "common", Path(folder) / "common")
        missing = set(ON_CPU)
        for path in Path(folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            for old, new in ON_CPU.items():
                if old in text:
                    missing.discard(old)
                    text = text.replace(old, new)
            path.write_text(text, encoding="utf-8")
        if missing:
            raise SystemExit(f"The code in {code} is another version: it does not say {', '.join(sorted(missing))}.")
        sys.path.insert(0, folder)
        try:
            return importlib.import_module("tdmpc2").TDMPC2
        finally:
            sys.path.remove(folder)
