from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flowshield.models import FlowMatchingShield, UDRLAgent
from flowshield.training import load_checkpoint, save_checkpoint
from tiny_trajectories import dataset
from worldline import seeding
from worldline.errors import DataError, FileError, WorldlineError
from worldline.tensor_files import read_tensors, write_tensors

MakeOptimizer = Callable[[Any], torch.optim.Optimizer]
OPTIMIZERS: dict[str, MakeOptimizer] = {
    "AdamW": lambda params: torch.optim.AdamW(params, lr=1e-3, amsgrad=True),
    "SGD": lambda params: torch.optim.SGD(params, lr=1e-2, momentum=0.9),
    "two groups": lambda params: torch.optim.Adam([{"params": params[:3], "lr": 1e-2}, {"params": params[3:]}]),
    "RMSprop": torch.optim.RMSprop,
}


class Loop:
    """A training loop as people write it."""

    def __init__(self, make_optimizer: MakeOptimizer, saved: dict[str, Any] | None = None) -> None:
        self.data = dataset()
        if saved is None:
            torch.manual_seed(0)
            self.agent = UDRLAgent(4, 2, hidden_dim=8, n_layers=1)
            self.shield = FlowMatchingShield(4, hidden_dim=8, n_layers=1)
            for model in (self.agent, self.shield):
                model.fit(self.data.statistics())
        else:
            self.agent, self.shield = saved["agent"], saved["shield"]
        self.optimizer = make_optimizer([*self.agent.parameters(), *self.shield.parameters()])
        if saved is not None:
            self.optimizer.load_state_dict(saved["optimizer"])
            seeding.set_rng_state(saved["rng"])
            self.data.seek(seed=0, step=saved["epoch"])

    def epoch(self) -> float:
        states, actions, commands = self.data.get_hindsight_batch(16)
        self.optimizer.zero_grad()
        loss = self.agent.compute_loss(states, commands, actions) + self.shield.compute_loss(states, commands)
        loss.backward()
        self.optimizer.step()
        return loss.item()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_loop_goes_on_exactly(tmp_path: Path, name: str):
    make_optimizer = OPTIMIZERS[name]
    whole = Loop(make_optimizer)
    expected = [whole.epoch() for _ in range(6)]
    first = Loop(make_optimizer)
    for _ in range(3):
        first.epoch()
    save_checkpoint(str(tmp_path / "new" / "c.pt"), first.agent, first.shield, first.optimizer, 3)
    torch.manual_seed(99)  # another process
    second = Loop(make_optimizer, load_checkpoint(str(tmp_path / "new" / "c.pt")))
    assert [second.epoch() for _ in range(3)] == expected[3:]


def test_what_is_in_it(tmp_path: Path):
    loop = Loop(OPTIMIZERS["AdamW"])
    save_checkpoint(tmp_path / "c", loop.agent, loop.shield, loop.optimizer, epoch=4)
    found = load_checkpoint(tmp_path / "c")
    assert {"model", "agent", "shield", "optimizer", "epoch"} <= found.keys()
    assert found["model"] is found["agent"]
    assert found["epoch"] == 4
    assert (type(found["agent"]), type(found["shield"])) == (UDRLAgent, FlowMatchingShield)
    assert found["optimizer"]["param_groups"] == loop.optimizer.state_dict()["param_groups"]


def test_parts_may_be_missing(tmp_path: Path):
    loop = Loop(OPTIMIZERS["AdamW"])
    save_checkpoint(tmp_path / "c", None, loop.shield, None, epoch=0)
    found = load_checkpoint(tmp_path / "c")
    assert (found["agent"], found["optimizer"]) == (None, None)
    assert found["model"] is found["shield"]


def test_an_optimiser_with_a_function_is_refused(tmp_path: Path):
    loop = Loop(OPTIMIZERS["AdamW"])
    loop.optimizer.param_groups[0]["schedule"] = print
    with pytest.raises(DataError, match="no plain value"):
        save_checkpoint(tmp_path / "c", loop.agent, None, loop.optimizer, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path: Path):
    loop = Loop(OPTIMIZERS["AdamW"])
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="Cannot save the checkpoint"):
        save_checkpoint(tmp_path / "file" / "c", loop.agent, None, None, 0)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    loop = Loop(OPTIMIZERS["AdamW"])
    loop.epoch()
    save_checkpoint(tmp_path / "c", loop.agent, loop.shield, loop.optimizer, epoch=4)
    return tmp_path / "c"


def test_a_file_cut_off_is_refused(saved: Path):
    whole = saved.read_bytes()
    for length in range(0, len(whole), 997):
        saved.write_bytes(whole[:length])
        with pytest.raises(WorldlineError):
            load_checkpoint(saved)


CHANGES: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "no state": lambda tensors: tensors.pop("state"),
    "a state of floats": lambda tensors: tensors.update(state=torch.zeros(3)),
    "a state that is no JSON": lambda tensors: tensors.update(state=torch.tensor([91], dtype=torch.uint8)),
    "brackets": lambda tensors: tensors.update(state=torch.full((100_000,), 91, dtype=torch.uint8)),
    "a long state": lambda tensors: tensors.update(state=torch.zeros(2 << 20, dtype=torch.uint8)),
    "another format": lambda tensors: tensors.update(state=as_bytes('{"format": "other"}')),
    "no epoch": lambda tensors: tensors.update(state=as_bytes('{"format": "flowshield-checkpoint", "version": 1}')),
    "another family": lambda tensors: replace(tensors, '"udrl"', '"nothing"'),
    "weights of another model": lambda tensors: replace(tensors, '"units": 8', '"units": 800000'),
    "a weight is missing": lambda tensors: tensors.pop("agent.command_low"),
    "an optimiser of text": lambda tensors: replace(tensors, '"param_groups": [', '"param_groups": ["x", '),
    "a parameter that is no number": lambda tensors: tensors.update({"optimizer.x.exp_avg": torch.zeros(1)}),
}


def as_bytes(text: str) -> torch.Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def replace(tensors: dict[str, torch.Tensor], old: str, new: str) -> None:
    text = bytes(tensors["state"].tolist()).decode()
    assert old in text
    tensors["state"] = as_bytes(text.replace(old, new, 1))


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_changed_is_refused(saved: Path, change: str):
    tensors = {name: tensor.clone() for name, tensor in read_tensors(saved).items()}
    CHANGES[change](tensors)
    saved.unlink()
    write_tensors(saved, tensors)
    with pytest.raises(WorldlineError):
        load_checkpoint(saved)
