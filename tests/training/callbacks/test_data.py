"""DataCallback: the data's state is in every checkpoint, and back before the first batch of a resumed run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.tiny_training import TinyModel, TinySampler, make_config
from worldline.training import CheckpointCallback, DataCallback, Trainer
from worldline.training.checkpoint import load_checkpoint


class Counting(TinySampler):
    """Counts its batches, over all parts of a run."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        return super().sample(*args, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: Any) -> None:
        self.count = state["count"]


def test_state_goes_into_checkpoints_and_back(tmp_path: Path) -> None:
    def run(total_steps: int, resume_from: Path | None = None) -> Counting:
        data = Counting()
        callbacks = [CheckpointCallback(tmp_path, 4), DataCallback(data)]
        Trainer(TinyModel(), make_config(total_steps=total_steps), callbacks).train(data, resume_from=resume_from)
        return data

    assert run(8).count == 8
    assert load_checkpoint(tmp_path / "step_00000004").callbacks["DataCallback"] == {"count": 4}
    assert run(10, resume_from=tmp_path).count == 10
