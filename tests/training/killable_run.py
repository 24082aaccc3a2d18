"""A short training run in a process of its own, for the tests that kill it.

    python killable_run.py DIRECTORY PAUSE_AT [SETTINGS]

Resumes from the checkpoints in DIRECTORY if there are any. Prints "step N" after every step. PAUSE_AT names a moment
inside the saves, counted over the whole process ("sync:5": the fifth flush), at which it prints "paused" and waits to
be killed; "none" for no pause. SETTINGS are those of the training, in JSON; with "on_anomaly" among them, some batches
have a NaN.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.tiny_training import TinyModel, TinySampler, make_config
from worldline.training import Callback, CheckpointCallback, EarlyStoppingCallback, LoggingCallback, Trainer, checkpoint


class Announce(Callback):
    """Says every step, and takes a moment over it, so that there is something to kill."""

    def on_step_end(self, step: int, losses: Mapping[str, Tensor]) -> None:
        print(f"step {step}", flush=True)
        time.sleep(0.002)


def pausing(function: Callable[..., Any], at_call: int) -> Callable[..., Any]:
    """Return `function`, which waits for ever before its call number `at_call`."""
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at_call:
            print("paused", flush=True)
            time.sleep(3600)
        return function(*args, **kwargs)

    return wrapped


def main(directory: Path, pause_at: str, settings: dict[str, Any]) -> None:
    """Train to the end, or wait to be killed."""
    torch.set_num_threads(1)
    name, _, call = pause_at.partition(":")
    if name == "rename":
        Path.rename = pausing(Path.rename, int(call))  # type: ignore[method-assign]
    elif name in ("sync", "save_file"):
        setattr(checkpoint, name, pausing(getattr(checkpoint, name), int(call)))
    callbacks = [
        Announce(),
        EarlyStoppingCallback(patience=1000),
        LoggingCallback(directory, log_interval=2, use_tensorboard=False),
        CheckpointCallback(directory / "checkpoints", save_interval=7, max_checkpoints=2),
    ]
    trainer = Trainer(
        TinyModel(algorithm="laprop", eps=1e-20, agc=0.3), make_config(total_steps=40, **settings), callbacks
    )
    checkpoints = directory / "checkpoints"
    resume_from = checkpoints if checkpoint.list_checkpoints(checkpoints) else None
    poisoned = (4, 15, 16, 20, 29, 35) if "on_anomaly" in settings else ()
    trainer.train(TinySampler(poisoned), resume_from=resume_from)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]) if len(sys.argv) > 3 else {})
