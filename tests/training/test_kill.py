"""A run killed with SIGKILL at any instant, and run again, ends with the same bytes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killable_run.py")
PYTHONPATH = os.pathsep.join([str(SCRIPT.parent.parent), os.environ.get("PYTHONPATH", "")])
COMPARED = ("model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json")


def start(directory: Path, pause_at: str = "none", **settings: object) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(directory), pause_at, json.dumps(settings)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_at(process: subprocess.Popen[str], line: str) -> bool:
    """Kill the process when it has printed `line`; return False if it ended before."""
    assert process.stdout is not None
    found = any(printed.strip() == line for printed in process.stdout)
    process.kill()
    process.communicate()
    return found


def finish(directory: Path, **settings: object) -> dict[str, bytes]:
    """Run to the end and return the bytes of the last checkpoint."""
    process = start(directory, **settings)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    last = directory / "checkpoints" / "step_00000040"
    contents = {name: (last / name).read_bytes() for name in COMPARED}
    state = json.loads(contents["state.json"])
    assert state["callbacks"]["LoggingCallback"].pop("seconds") > 0  # the one thing that no run has twice
    return contents | {"state.json": json.dumps(state).encode()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return finish(tmp_path_factory.mktemp("whole"))


def assert_same_end(directory: Path, expected: dict[str, bytes]) -> None:
    assert finish(directory) == expected
    steps = [json.loads(line)["step"] for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(2, 41, 2))
    names = sorted(path.name for path in (directory / "checkpoints").iterdir())
    assert names == ["step_00000035", "step_00000040"]


def test_killed_between_steps_twice(tmp_path: Path, expected: dict[str, bytes]) -> None:
    for step in (16, 30):
        assert kill_at(start(tmp_path), f"step {step}")
    assert_same_end(tmp_path, expected)


# A save flushes model, optimizer, rng, state, manifest, their folder, and the folder of checkpoints after the rename.
@pytest.mark.parametrize("pause_at", ["save_file:5", "sync:9", "rename:2", "sync:14"])
def test_killed_inside_a_save(tmp_path: Path, expected: dict[str, bytes], pause_at: str) -> None:
    assert kill_at(start(tmp_path, pause_at), "paused")
    assert_same_end(tmp_path, expected)


def test_killed_before_the_first_checkpoint_is_whole(tmp_path: Path, expected: dict[str, bytes]) -> None:
    assert kill_at(start(tmp_path, "sync:3"), "paused")
    assert not list((tmp_path / "checkpoints").glob("step_*"))
    assert_same_end(tmp_path, expected)


def test_killed_between_rollbacks(tmp_path: Path) -> None:
    settings = {"on_anomaly": "rollback", "ema_decay": 0.9, "num_micro_batches": 2}
    whole = finish(tmp_path / "whole", **settings)
    assert kill_at(start(tmp_path / "killed", **settings), "step 19")
    assert finish(tmp_path / "killed", **settings) == whole
    found = sorted(path.name for path in (tmp_path / "killed").glob("nonfinite_*"))
    assert found == [f"nonfinite_step_{step:08d}" for step in (5, 16, 17, 21, 30, 36)]


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path: Path, expected: dict[str, bytes]) -> None:
    assert kill_at(start(tmp_path), "step 25")
    newest = tmp_path / "checkpoints" / "step_00000021" / "model.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    assert finish(tmp_path) == expected
    assert (tmp_path / "checkpoints" / "superseded_001" / "step_00000021").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(25))
def test_killed_at_random_instants(tmp_path: Path, expected: dict[str, bytes], seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(generator.randrange(1, 4)):
        if generator.random() < 0.5:
            moment, calls = generator.choice([("sync", 35), ("save_file", 15), ("rename", 5)])
            kill_at(start(tmp_path, f"{moment}:{generator.randrange(1, calls)}"), "paused")
        else:
            kill_at(start(tmp_path), f"step {generator.randrange(1, 41)}")
    assert finish(tmp_path) == expected
