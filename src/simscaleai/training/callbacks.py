"""What happens around the steps: results are kept, and checkpoints written."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simscaleai.training.adapter import Adapter
from simscaleai.training.checkpoint import FINAL, list_checkpoints, step_of, write_checkpoint
from simscaleai.training.config import TrainConfig
from worldline.errors import FileError
from worldline.files import set_aside
from worldline.lock import FolderLock
from worldline.training.callbacks.base import Callback, Order
from worldline.training.metrics import named_results, to_floats

if TYPE_CHECKING:
    from torch import Tensor


class Results(Callback):
    """Keeps what `Trainer.train` returns: the last loss, the last evaluation, and the best loss of all evaluations."""

    def __init__(self) -> None:
        self.evaluation: dict[str, float] = {}
        self.best_eval_loss = math.inf
        self._final_loss = math.nan
        self._losses: Mapping[str, Tensor] = {}

    @property
    def final_loss(self) -> float:
        """The loss of the last step."""
        return to_floats({"loss": self._losses["loss"]})["loss"] if self._losses else self._final_loss

    def on_step_end(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Keep the losses, wherever they are."""
        self._losses = losses

    def on_eval_end(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep the result."""
        self.evaluation = named_results(metrics)
        self.best_eval_loss = min(self.best_eval_loss, metrics.get("loss", math.inf))

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run goes on from."""
        return {
            "evaluation": self.evaluation,
            "best_eval_loss": self.best_eval_loss,
            "final_loss": self.final_loss,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.evaluation = {str(name): float(value) for name, value in state["evaluation"].items()}
        self.best_eval_loss, self._final_loss = float(state["best_eval_loss"]), float(state["final_loss"])
        self._losses = {}


class Checkpoints(Callback):
    """Writes `step_N.pt` every `save_every` steps and when a run is interrupted, `final.pt` when it has ended.

    None is ever deleted. Those of another run, or beyond the step that is resumed, are moved into a folder
    `superseded_*` when training begins. One that cannot be written is a warning; the last one is an error.
    """

    order = Order.SAVE

    def __init__(self, config: TrainConfig, results: Results) -> None:
        self.output_dir: Path = Path(config.checkpoint_dir)
        self._config = config
        self._results = results
        self._lock = FolderLock(self.output_dir)
        self._saved_step: int | None = None

    def on_train_begin(self) -> None:
        """Lock the folder, and put away what does not belong to this run.

        Raises:
            FileError: Another process writes into the folder, or it cannot be written to.
        """
        if not self.trainer.ranks.is_main:
            return
        self._lock.acquire()
        try:
            self._put_away()
        except OSError as error:
            raise FileError(f"Cannot put away what is in {self.output_dir}: {error}. Choose another folder.") from error

    def on_step_end(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Save if it is time."""
        if step % self._config.save_every == 0:
            try:
                self._save(f"step_{step}.pt")
            except FileError as error:
                warnings.warn(f"{error} Training goes on, and later saves are tried as usual.", stacklevel=2)

    def on_train_end(self) -> None:
        """Save the last step, unless training failed.

        Raises:
            FileError: It cannot be saved.
        """
        trainer = self.trainer
        try:
            if trainer.status == "failed" or trainer.step == 0:
                return
            if trainer.status == "finished" and trainer.step >= trainer.config.total_steps:
                self._save(FINAL)
            elif trainer.step != self._saved_step:
                self._save(f"step_{trainer.step}.pt")
        finally:
            self._lock.release()

    def _save(self, name: str) -> None:
        """Write a checkpoint; all processes must call it, as each has generators of its own."""
        trainer = self.trainer
        checkpoint = trainer.capture()
        model = trainer.model
        assert isinstance(model, Adapter)
        path = self.output_dir / name
        if trainer.ranks.is_main:
            write_checkpoint(path, checkpoint, self._config, model, best=self._results.best_eval_loss)
        trainer.last_checkpoint = path
        self._saved_step = trainer.step

    def _put_away(self) -> None:
        resumed = self.trainer.last_checkpoint
        is_here = resumed is not None and resumed.parent.resolve() == self.output_dir.resolve()
        kept = self.trainer.step if is_here else -1
        stale = [path for path in list_checkpoints(self.output_dir) if step_of(path) > kept]
        final = self.output_dir / FINAL
        if final.exists() and not (is_here and resumed is not None and resumed.name == final.name):
            stale.append(final)
        if folder := set_aside(stale):
            warnings.warn(
                f"{self.output_dir} held {len(stale)} checkpoints that are not of this run. They are now in {folder}.",
                stacklevel=2,
            )
