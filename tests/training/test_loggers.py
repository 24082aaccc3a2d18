"""metrics.jsonl survives kills and resumes; the optional writers work or say why not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from worldline.training.loggers import JsonlWriter, TensorBoardWriter, WandbWriter


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
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = TensorBoardWriter(tmp_path, step=0)
    writer.write(10, {"loss": 0.5})
    writer.write(20, {"loss": 0.25})
    writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()  # type: ignore[no-untyped-call]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(10, 0.5), (20, 0.25)]


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

    monkeypatch.setattr(wandb, "init", lambda config, dir: calls.append((config, dir)) or Run())  # noqa: A006
    writer = WandbWriter.start({"seed": 1}, tmp_path)
    assert writer is not None
    writer.write(3, {"loss": 0.5})
    writer.close()
    assert calls == [({"seed": 1}, str(tmp_path)), (3, {"loss": 0.5}), "finished"]
