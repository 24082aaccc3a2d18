"""Deterministic algorithms are on for the run alone."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from training.tiny_training import TinyModel, TinySampler, make_config
from worldline.batch import Batch
from worldline.training import Trainer
from worldline.training.deterministic import deterministic_algorithms


def settings() -> tuple[object, ...]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )


def test_everything_is_set_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = settings()
    with deterministic_algorithms(True):
        assert settings() == (True, False, True, False, ":4096:8")
    assert settings() == before
    with pytest.raises(RuntimeError), deterministic_algorithms(True):
        raise RuntimeError
    assert settings() == before
    with deterministic_algorithms(False):
        assert settings() == before


def test_the_users_workspace_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with deterministic_algorithms(True):
        assert settings()[-1] == ":16:8"
    assert settings()[-1] == ":16:8"


def test_a_run_asks_for_them_and_an_operator_without_any_is_named() -> None:
    seen: list[bool] = []

    class Putting(TinyModel):
        def compute_loss(self, batch: Batch) -> dict[str, Tensor]:
            seen.append(torch.are_deterministic_algorithms_enabled())
            if len(seen) == 3:
                torch.zeros(3).put_(torch.zeros(2, dtype=torch.long), torch.ones(2), accumulate=False)
            return super().compute_loss(batch)

    with pytest.raises(RuntimeError, match="put_ does not have a deterministic implementation"):
        Trainer(Putting(), make_config(deterministic=True)).train(TinySampler())
    Trainer(Putting(), make_config(total_steps=1)).train(TinySampler())
    assert seen == [True, True, True, False]
