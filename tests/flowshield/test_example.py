"""The example runs as its docstring says, with Hydra's command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowshield.envs import make_env
from flowshield.training import DataCollector
from worldline import load_model

EXAMPLE = Path(__file__).parents[2] / "examples" / "flowshield" / "train.py"


def test_example(tmp_path: Path):
    pytest.importorskip("hydra")
    collector = DataCollector(make_env("lunarlander", max_episode_steps=20))
    collector.collect(20)
    collector.save(tmp_path / "data" / "lunarlander_2k.npz")
    changes = ["shield=quantile", "shield.alpha=0.4", "shield.hidden_dim=16", "model.hidden_dim=16", "n_epochs=1"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), *changes, "device=cpu", "log_dir=runs"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Trained UDRLAgent and QuantileShield in runs" in done.stdout
    assert load_model(tmp_path / "runs" / "quantile" / "final").config.units == 16
