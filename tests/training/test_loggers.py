"""metrics.jsonl survives kills and resumes; the optional writers work or say why not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.tiny_training import TinyModel, TinySampler, make_config
from worldline.config import to_dict
from worldline.errors import FileError
from worldline.training import LoggingCallback, Trainer
from worldline.training.loggers import JsonlWriter, TensorBoardWriter, TrackioWriter, WandbWriter


def steps_in(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def write(path: Path, steps: range, *, start: int) -> None:
    writer = JsonlWriter(path, step=start)
    for step in steps:
        writer.write(step, {"loss": 1 / step})
    writer.close()


def test_lines_are_json_with_their_step(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.jsonl"
    writer = JsonlWriter(path, step=0)
    writer.write(5, {"loss": 0.1, "bad": float("nan"), "worse": float("inf")})
    assert json.loads(path.read_text()) == {"step": 5, "loss": 0.1, "bad": None, "worse": None}  # before close
    writer.close()


@pytest.mark.parametrize("torn", [b'{"step": 50, "lo', b'{"step": 20, "loss": 1}', b"\xff\xfe\n", b"[1]\n"])
def test_resuming_repairs_the_end_and_drops_later_steps(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(10, 50, 10), start=0)
    path.write_bytes(path.read_bytes() + torn)
    write(path, range(40, 60, 10), start=30)
    assert steps_in(path) == [10, 20, 30, 40, 50]


@pytest.mark.parametrize("step", [20, 30, 40])
def test_a_kill_at_any_byte_of_the_last_lines_is_repaired(tmp_path: Path, step: int) -> None:
    """Whatever is left of the last three lines, a run that goes on from `step` has every step once."""
    path = tmp_path / "metrics.jsonl"
    write(path, range(10, 50, 10), start=0)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for size in range(first, len(whole) + 1):
        path.write_bytes(whole[:size])
        kept = [number for number in steps_of(whole[:size]) if number <= step]
        write(path, range(step + 10, 70, 10), start=step)
        assert steps_in(path) == [*kept, *range(step + 10, 70, 10)]
        assert path.read_bytes().startswith(whole[: whole.index(b"\n", first - 1) + 1])


def steps_of(content: bytes) -> list[int]:
    return [10 * number for number in range(1, content.count(b"\n") + 1)]


def test_steps_that_went_back_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {step}}}\n' for step in (10, 20, 15, 20, "[[", 30)))
    write(path, range(40, 50, 10), start=30)
    assert steps_in(path) == [10, 20, 30, 40]


def test_resuming_leaves_a_sound_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(10, 30, 10), start=0)
    before = path.stat().st_ino
    write(path, range(30, 40, 10), start=20)
    assert path.stat().st_ino == before
    assert steps_in(path) == [10, 20, 30]


def test_a_new_run_moves_the_old_file_aside(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(10, 30, 10), start=0)
    with pytest.warns(UserWarning, match="superseded_001"):
        write(path, range(10, 20, 10), start=0)
    assert steps_in(path) == [10]
    assert steps_in(tmp_path / "superseded_001" / "metrics.jsonl") == [10, 20]


def test_tensorboard_gets_the_scalars(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    writer = TensorBoardWriter(tmp_path, step=0)
    writer.write(10, {"loss": 0.5})
    writer.write(20, {"loss": 0.25})
    writer.close()
    assert scalars(tmp_path) == [(10, 0.5), (20, 0.25)]


def test_tensorboard_gets_histograms_and_settings(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    writer = TensorBoardWriter(tmp_path, step=0)
    writer.write_histogram(3, "weights", np.array([0.0, 1.0, 1.0]))
    writer.write_config({"seed": 2})
    writer.close()
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    found = events.Histograms("weights")[0]
    assert (found.step, found.histogram_value.num, found.histogram_value.sum) == (3, 3, 2)
    assert b'"seed": 2' in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0]


def scalars(directory: Path) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory)).Reload()  # type: ignore[no-untyped-call]
    return [(event.step, event.value) for event in events.Scalars("loss")]


def test_a_resumed_tensorboard_log_has_every_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the kill tore the last record, and where a run began anew in an older one's folder."""
    pytest.importorskip("tensorboard")
    hour = iter(range(10**9, 2 * 10**9, 3600))  # files of one second have no order
    for start, end in ((0, 60), (0, 50), (20, 50), (40, 80)):
        with monkeypatch.context() as patched:
            patched.setattr("tensorboard.summary.writer.event_file_writer.time", FrozenTime(next(hour)))
            writer = TensorBoardWriter(tmp_path, step=start)
        for step in range(start + 10, end + 10, 10):
            writer.write(step, {"loss": start + step / 1000})
        writer.close()
        newest = max(tmp_path.iterdir())
        newest.write_bytes(newest.read_bytes()[:-7])  # the last record is torn
    assert scalars(tmp_path) == [
        *((step, pytest.approx(step / 1000)) for step in (10, 20)),
        *((step, pytest.approx(20 + step / 1000)) for step in (30, 40)),
        *((step, pytest.approx(40 + step / 1000)) for step in (50, 60, 70)),
    ]


class FrozenTime:
    """The module `time` at one moment."""

    def __init__(self, now: float) -> None:
        self.now = now

    def time(self) -> float:
        return self.now


def test_a_kill_leaves_what_was_flushed_to_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    code = (
        "import os, signal, sys, time\n"
        "from pathlib import Path\n"
        "from worldline.training import loggers\n"
        "loggers._FLUSH_SECONDS = 0.05\n"
        "writer = loggers.TensorBoardWriter(Path(sys.argv[1]), step=0)\n"
        "size = lambda: sum(path.stat().st_size for path in Path(sys.argv[1]).iterdir())\n"
        "before = size()\n"
        "writer.write(10, {'loss': 0.5})\n"
        "while size() == before: time.sleep(0.01)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert scalars(tmp_path) == [(10, 0.5)]


def test_missing_trackio_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.warns(UserWarning, match=r"use_trackio=True.*pip install 'worldline\[trackio\]'"):
        assert TrackioWriter.start({}, None) is None


def test_trackio_gets_the_metrics(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[object] = []

    class Run:
        def log(self, metrics: object, step: int) -> None:
            calls.append((step, metrics))

        def finish(self) -> None:
            calls.append("finished")

    fake = types.ModuleType("trackio")
    fake.init = lambda project, name, config: calls.append((project, name, config)) or Run()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", fake)
    logging = LoggingCallback(tmp_path / "run_a", use_tensorboard=False, console=False, use_trackio=True)
    config = make_config(total_steps=10)
    Trainer(TinyModel(), config, [logging]).train(TinySampler())
    assert calls[0] == ("worldline", "run_a", to_dict(config))
    assert [call[0] for call in calls[1:-1]] == [5, 10]  # type: ignore[index]
    assert calls[1][1].keys() >= {"loss", "grad_norm", "train_seconds"}  # type: ignore[index]
    assert calls[-1] == "finished"


def test_trackio_that_cannot_start_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**settings: object) -> None:
        raise PermissionError("no place for the database")

    fake = types.ModuleType("trackio")
    fake.init = refuse  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", fake)
    with pytest.warns(UserWarning, match="no place for the database"):
        assert TrackioWriter.start({}, None) is None


def test_missing_wandb_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.warns(UserWarning, match=r"pip install 'worldline\[wandb\]'"):
        assert WandbWriter.start({}, None) is None


def test_wandb_that_cannot_start_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")

    def refuse(**settings: object) -> None:
        raise wandb.errors.UsageError("api_key not configured")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.warns(UserWarning, match="api_key not configured"):
        assert WandbWriter.start({}, None) is None


def test_wandb_gets_the_metrics(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb")
    calls: list[object] = []

    class Run:
        def log(self, metrics: object, step: int) -> None:
            calls.append((step, metrics))

        def finish(self) -> None:
            calls.append("finished")

        config = types.SimpleNamespace(update=lambda config, allow_val_change: calls.append(config))

    monkeypatch.setattr(wandb, "init", lambda **options: calls.append(options) or Run())
    writer = WandbWriter.start({"seed": 1}, tmp_path)
    assert writer is not None
    writer.write(3, {"loss": 0.5})
    writer.write_histogram(4, "weights", np.array([0.0, 1.0, 1.0]))
    writer.write_config({"seed": 2})
    writer.close()
    step, logged = calls.pop(2)  # type: ignore[misc]
    assert (step, sum(logged["weights"].histogram)) == (4, 3)
    assert calls == [{"config": {"seed": 1}, "dir": str(tmp_path)}, (3, {"loss": 0.5}), {"seed": 2}, "finished"]
    calls.clear()
    WandbWriter.start({"seed": 1}, None, {"project": "arm", "name": None})
    assert calls == [{"config": {"seed": 1}, "dir": None, "project": "arm", "name": None}]


class FullDisk:
    """A file that takes `room` bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, content: bytes) -> int:
        if self.room == 0:
            raise OSError(28, "No space left on device")
        count = self.file.write(content[: self.room])
        self.room -= count
        return int(count)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_lines_that_a_full_disk_does_not_take_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = JsonlWriter(path, step=0)
    writer.write(1, {"loss": 1.0})
    writer._file = disk = FullDisk(writer._file, room=10)  # type: ignore[assignment]
    with pytest.warns(UserWarning, match=r"Cannot write .*metrics\.jsonl: .*No space left.*kept until there is room"):
        writer.write(2, {"loss": 2.0})
    writer.write(3, {"loss": 3.0})  # once is enough
    disk.room = 1000
    writer.write(4, {"loss": 4.0})
    writer.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]


def test_a_log_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileError, match=r"is a link or a device. Delete it"):
        JsonlWriter(tmp_path / "metrics.jsonl", step=3)
    with pytest.raises(FileError, match=r"Cannot write .*Choose a folder"):
        JsonlWriter(tmp_path / "elsewhere" / "metrics.jsonl", step=0)
