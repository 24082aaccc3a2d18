"""Gives hostile files to readers, each in a process of its own that is watched, and prints what happened as JSON.

    python readers.py LIST FOLDER

LIST is a JSON file of (case, reader, path); FOLDER is where the processes run.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from flowshield import training
from flowshield.training import TrajectoryDataset
from training.killable_run import ActingModel, _open_sampler
from training.tiny_training import TinyModel, TinySampler, make_config
from worldline.cli import runs
from worldline.create import load_model
from worldline.data.buffer import ReplayBuffer
from worldline.data.dataset import Dataset
from worldline.data.formats.pickled import read_pickle
from worldline.errors import WorldlineError
from worldline.models.tdmpc2 import TDMPC2
from worldline.training import CheckpointCallback, DataCallback, EarlyStoppingCallback, LoggingCallback, Trainer
from worldline.training.checkpoint import load_checkpoint

WRITES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.symlink", "os.link")
CONNECTS = ("socket", "urllib", "http", "ftplib", "smtplib")
RUNS = ("subprocess", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.startfile", "pickle.find_class", "pty")
SECONDS = 20  # after which a process is given up


def resume(path: Path) -> None:
    trainer = Trainer(TinyModel(), make_config(), [EarlyStoppingCallback(), CheckpointCallback(Path("own"))])
    trainer.train(TinySampler(), num_steps=1, resume_from=path)


def resume_online(path: Path) -> None:
    model = ActingModel()
    sampler = _open_sampler(model, path / "replay")
    trainer = Trainer(model, make_config(), [DataCallback(sampler)])
    trainer.train(sampler, num_steps=1, resume_from=path / "checkpoints")


def log(path: Path) -> None:
    Trainer(TinyModel(), make_config(), [LoggingCallback(path, use_tensorboard=False)]).train(TinySampler(), 1)


READERS: dict[str, Callable[[Path], Any]] = {
    "buffer": ReplayBuffer.load,
    "dataset": Dataset,
    "official": TDMPC2.from_official,
    "trajectories": TrajectoryDataset,
    "pickle": read_pickle,
    "flowshield checkpoint": training.load_checkpoint,
    "checkpoint": load_checkpoint,
    "resume": resume,
    "online": resume_online,
    "model": load_model,
    "config": lambda path: runs.read_config(path / "config.yaml", runs.RunConfig),
    "metrics": runs.read_metrics,
    "metrics refused": runs.read_metrics,
    "log refused": log,
}


class Watch:
    """An audit hook that notes code, connections, and files that are opened to be written outside a folder."""

    def __init__(self) -> None:
        self.inside = str(Path.cwd())
        self.is_on = False
        self.seen: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        if event == "open":
            path, mode, flags = arguments
            is_write = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or any(c in (mode or "") for c in "wax+")
            if is_write and not self._is_inside(path):
                self.seen.append(f"open {path!r} {mode} {flags}")
        elif event.startswith((*CONNECTS, *RUNS)) and event != "socket.gethostname":
            self.seen.append(f"{event} {arguments!r}"[:300])
        elif event in WRITES and not isinstance(arguments[0], int) and not self._is_inside(arguments[0]):
            self.seen.append(f"{event} outside: {arguments!r}"[:300])
        elif event == "exec" and not self._is_of_library(arguments[0], sys._getframe(1)):
            self.seen.append(f"exec {arguments[0]!r}")

    def _is_of_library(self, code: Any, caller: FrameType) -> bool:
        """Return whether the code is a module's, or what the standard library makes of our own annotations."""
        is_module = Path(code.co_filename).is_absolute() or code.co_filename.startswith("<frozen")
        return is_module or caller.f_code.co_filename.endswith(("/typing.py", "/dataclasses.py"))

    def _is_inside(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and str(Path(path).absolute()).startswith(self.inside)


def watched(reader: str, path: Path, watch: Watch, pipe: int) -> None:
    """Read in this process, a fork, and write what happened into `pipe`."""
    result: dict[str, Any] = {"error": None, "kind": None}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.alarm(SECONDS)
    warnings.simplefilter("ignore")
    if reader == "log refused":
        watch.inside = str(path)  # its own
    began = time.process_time()
    watch.is_on = True
    try:
        READERS[reader](path)
    except WorldlineError as error:
        result |= {"kind": "refused", "error": str(error)}
    except BaseException as error:  # noqa: BLE001 - whatever it is, the test shall show it
        result |= {"kind": type(error).__name__, "error": repr(error)[:1000]}
    watch.is_on = False
    result["seconds"] = time.process_time() - began
    result["megabytes"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
    result["seen"] = watch.seen
    os.write(pipe, json.dumps(result).encode())


def main(listed: list[tuple[str, str, str]], benign: list[tuple[str, str]]) -> None:
    """Read good files, so that all is loaded and the memory that it takes is there; then the others."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for reader, path in benign:
        READERS[reader](Path(path))
    watch = Watch()
    sys.addaudithook(watch)
    results = []
    for name, reader, path in listed:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            try:
                watched(reader, Path(path), watch, writing)
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as file:
            content = file.read()
        _, status = os.waitpid(child, 0)
        result = json.loads(content) if content else {"kind": f"ended with status {status}", "error": None, "seen": []}
        results.append({"case": name, "reader": reader, **result})
    print(json.dumps(results))


if __name__ == "__main__":
    described = json.loads(Path(sys.argv[1]).read_text())
    os.chdir(sys.argv[2])
    main(described["hostile"], described["benign"])
