from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from flowshield.models import QuantileShield, UDRLAgent
from flowshield.training import Trainer
from tiny_trajectories import dataset
from worldline import load_model
from worldline.errors import ConfigError, DataError
from worldline.training.checkpoint import list_checkpoints

TINY = {"hidden_dim": 16, "n_layers": 2}
ENV = {"name": "lunarlander", "state_dim": 4, "action_dim": 2}


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    shield = {"name": "quantile", **TINY, "alpha": 0.2}
    common = {"env": ENV, "model": TINY, "shield": shield, "device": "cpu", "batch_size": 32}
    return {**common, "log_dir": str(folder / "logs"), "n_epochs": 2, "learning_rate": 1e-3, **changes}


def assert_same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    assert one.state_dict().keys() == other.state_dict().keys()
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name], rtol=0, atol=0, equal_nan=True)


def test_both_are_trained_and_saved(tmp_path: Path):
    data = dataset()
    agent, shield = Trainer(settings(tmp_path)).train(data)
    assert isinstance(agent, UDRLAgent)
    assert isinstance(shield, QuantileShield)
    assert (agent.config.units, agent.config.layers, agent.config.action_type) == (16, 2, "continuous")
    states, commands = data.get_command_pairs(500)
    assert shield.is_ood(states, commands).float().mean() < 0.4  # it has a threshold; alpha is 0.2
    assert shield.is_ood(states, commands + torch.tensor([0.0, 1e4])).all()
    assert_same(shield, QuantileShield.load(tmp_path / "logs" / "quantile" / "final"))
    assert load_model(tmp_path / "logs" / "udrl" / "final").config == agent.config


@pytest.mark.parametrize(
    ("which", "folders"), [((True, False), {"udrl"}), ((False, True), {"quantile"}), ((False, False), set())]
)
def test_what_is_off_is_none(tmp_path: Path, which: tuple[bool, bool], folders: set[str]):
    (tmp_path / "logs").mkdir()
    found = Trainer(settings(tmp_path)).train(dataset(), train_udrl=which[0], train_shield=which[1])
    assert tuple(model is not None for model in found) == which
    assert {path.name for path in (tmp_path / "logs").iterdir()} == folders


def test_every_key_of_the_configuration_is_obeyed(tmp_path: Path):
    data = dataset()
    steps = -(-len(data) // 64)
    trainer = Trainer(settings(tmp_path, seed=5, batch_size=64, learning_rate=5e-4, checkpoint_every=2, n_epochs=5))
    trainer.train(data, train_shield=False)
    out = tmp_path / "logs" / "udrl"
    assert [path.name for path in list_checkpoints(out / "checkpoints")] == [
        f"step_{step:08d}" for step in (2 * steps, 4 * steps, 5 * steps)
    ]
    state = json.loads((list_checkpoints(out / "checkpoints")[-1] / "state.json").read_text())
    found = {name: state["config"][name] for name in ("seed", "batch_size", "learning_rate", "device", "total_steps")}
    assert found == {"seed": 5, "batch_size": 64, "learning_rate": 5e-4, "device": "cpu", "total_steps": 5 * steps}
    assert (out / "metrics.jsonl").stat().st_size > 0


def test_epochs_that_are_asked_for(tmp_path: Path):
    data = dataset()
    steps = -(-len(data) // 32)
    trainer = Trainer(settings(tmp_path, n_epochs=None))
    trainer.train_udrl(data, n_epochs=3)
    (newest,) = list_checkpoints(tmp_path / "logs" / "udrl" / "checkpoints")
    assert newest.name == f"step_{3 * steps:08d}"
    trainer.train_udrl(data, 4)  # goes on
    lines = (tmp_path / "logs" / "udrl" / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line)["step"] for line in lines]
    assert found == sorted(set(found))
    assert found[-1] == 4 * steps


def test_the_agent_learns_to_obey(tmp_path: Path):
    """In the data the action says what the return per step will be, so the command does."""
    agent = Trainer(settings(tmp_path, n_epochs=30, learning_rate=3e-3)).train_udrl(dataset(120))
    commands = torch.tensor([[10.0, -80.0], [10.0, 0.0], [10.0, 80.0]])
    actions = agent.sample(torch.zeros(3, 4), commands, deterministic=True)
    torch.testing.assert_close(actions, torch.tensor([[-0.8], [0.0], [0.8]]).expand(3, 2), atol=0.15, rtol=0)


@pytest.mark.parametrize("shield_type", ["quantile", "diffusion", "flow_matching"])
def test_every_shield_by_name(tmp_path: Path, shield_type: str):
    shield = {"name": shield_type, **TINY, "alpha": 0.3}
    found = Trainer(settings(tmp_path, shield=shield)).train_shield(dataset(), shield_type, n_epochs=1)
    assert found.family == f"{shield_type}_shield"
    assert found.config.units == 16


def test_a_shield_that_is_not_configured_has_its_own_defaults(tmp_path: Path):
    trainer = Trainer(settings(tmp_path))
    assert trainer._shield("flow_matching").hidden_dim == 256
    assert trainer._shield(None).hidden_dim == trainer._shield("quantile").hidden_dim == 16
    with pytest.raises(ConfigError, match="Did you mean 'flow_matching'"):
        trainer.train_shield(dataset(), "flow-matching")


def test_too_few_episodes_to_calibrate(tmp_path: Path):
    for num_episodes in (1, 10):
        with pytest.warns(UserWarning, match=r"The shield has no threshold yet: .* Collect more episodes\."):
            shield = Trainer(settings(tmp_path / str(num_episodes))).train_shield(dataset(num_episodes))
        with pytest.raises(DataError, match="no threshold yet"):
            shield.is_ood(torch.zeros(1, 4), torch.ones(1, 2))


def test_data_of_another_environment(tmp_path: Path):
    trainer = Trainer(settings(tmp_path, env="lunarlander"))
    with pytest.raises(DataError, match="The data has state_dim 4, but lunarlander has 8"):
        trainer.train(dataset())


def test_cuda_falls_back(tmp_path: Path):
    if torch.cuda.is_available():
        pytest.skip("There is CUDA here.")
    with pytest.warns(UserWarning, match="no CUDA here: the CPU is used"):
        assert Trainer(settings(tmp_path, device="cuda")).device == "cpu"


def test_what_is_complete_is_not_trained_again(tmp_path: Path):
    first = Trainer(settings(tmp_path)).train(dataset())
    before = (tmp_path / "logs" / "udrl" / "metrics.jsonl").read_text()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = Trainer(settings(tmp_path)).train(dataset())
    assert (tmp_path / "logs" / "udrl" / "metrics.jsonl").read_text() == before
    for one, other in zip(first, second, strict=True):
        assert one is not None
        assert other is not None
        assert_same(one, other)


@pytest.mark.parametrize("change", ["seed", "data", "epochs"])
def test_another_run_is_moved_aside(tmp_path: Path, change: str):
    Trainer(settings(tmp_path)).train_udrl(dataset())
    changes = {"seed": {"seed": 1}, "data": {}, "epochs": {"n_epochs": 1}}[change]
    with pytest.warns(UserWarning, match=r"holds a run with other settings or data. It is now in .*superseded_001"):
        Trainer(settings(tmp_path, **changes)).train_udrl(dataset(seed=1 if change == "data" else 0))
    out = tmp_path / "logs" / "udrl"
    assert (out / "superseded_001" / "final" / "config.json").is_file()
    assert (out / "final" / "config.json").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_run_goes_on(tmp_path: Path):
    """It ends with the weights that a run which nothing disturbed ends with."""
    long = settings(tmp_path, n_epochs=100)
    script = (
        "import sys; from pathlib import Path; from flowshield.training import Trainer\n"
        "from tiny_trajectories import dataset\n"
        f"Trainer({long!r}).train_udrl(dataset(12))"
    )
    tests = Path(__file__).parents[2]
    path = os.pathsep.join([str(tests), str(tests.parent / "src")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.DEVNULL)
    checkpoints = tmp_path / "logs" / "udrl" / "checkpoints"
    while not list_checkpoints(checkpoints):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed_at = list_checkpoints(checkpoints)[-1]
    steps = 100 * -(-len(dataset(12)) // 32)
    assert 0 < int(killed_at.name[5:]) < steps
    with one_thread():
        whole = Trainer({**long, "log_dir": str(tmp_path / "whole")}).train_udrl(dataset(12))
        resumed = Trainer(long).train_udrl(dataset(12))
    assert_same(whole, resumed)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run the body as the other process runs, for the same bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
