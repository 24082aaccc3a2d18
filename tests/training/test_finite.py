"""Non-finite steps are found at the next check, the first of them, with the generators' state of that step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from training.tiny_training import make_batch
from worldline.training.finite import FiniteCheck, NonFiniteStep, save_offending_batch

ONE = torch.tensor(1.0)


def state(value: int) -> dict[str, Tensor]:
    return {"cpu": torch.tensor([value], dtype=torch.uint8)}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_every_kind_of_bad_loss_or_gradient_is_found(bad: float) -> None:
    for loss, norm in ((torch.tensor(bad), ONE), (ONE, torch.tensor(bad)), (torch.tensor(bad), torch.tensor(bad))):
        with pytest.raises(NonFiniteStep):
            FiniteCheck(1).add(1, state(0), loss, norm)


def test_the_first_bad_step_of_an_interval_is_the_one_reported() -> None:
    check = FiniteCheck(5)
    for step in range(1, 5):
        check.add(step, state(step), torch.tensor(float("nan") if step >= 3 else 1.0), ONE)
    with pytest.raises(NonFiniteStep) as caught:
        check.add(5, state(5), ONE, ONE)
    assert caught.value.step == 3
    assert torch.equal(caught.value.rng["cpu"], state(3)["cpu"])


def test_a_check_between_intervals_looks_at_what_is_pending_once() -> None:
    check = FiniteCheck(100)
    check.check()
    check.add(1, state(1), torch.tensor(float("nan")), ONE)
    with pytest.raises(NonFiniteStep):
        check.check()
    check.check()


def test_the_saved_batch_is_the_batch(tmp_path: Path) -> None:
    batch = make_batch(3)
    folder = save_offending_batch(tmp_path, batch, step=12, seed=5, rng=state(9))
    saved = load_file(folder / "batch.safetensors")
    assert torch.equal(saved["rewards"], batch.rewards)
    assert torch.equal(saved["is_first"], batch.is_first)
    assert saved.keys() == {"obs", "actions", "rewards", "terminations", "is_first", "step_mask", "obs_mask"}
    assert torch.equal(load_file(folder / "rng.safetensors")["cpu"], state(9)["cpu"])
    assert json.loads((folder / "step.json").read_text()) == {"step": 12, "seed": 5}
