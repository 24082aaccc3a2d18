"""A run killed with SIGKILL at any instant, and run again, ends with the same bytes; one asked to end saves first."""

from __future__ import annotations

import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from training.killable_run import MODES, TOTAL_STEPS, Process, Settings, outcome
from worldline.training.checkpoint import list_checkpoints, load_checkpoint

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")


class Expected:
    """What uninterrupted runs end with, by mode, and how many operations on the disk they take."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._found: dict[str, tuple[dict[str, Any], int]] = {}

    def __call__(self, mode: str) -> tuple[dict[str, Any], int]:
        if mode not in self._found:
            process = Process(Settings(self._root / mode, mode))
            assert process.end() == 0
            self._found[mode] = outcome(self._root / mode), process.events[-1][1]
        return self._found[mode]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Expected:
    return Expected(tmp_path_factory.mktemp("whole"))


def kill_once(settings: Settings, generator: random.Random, *, num_operations: int, in_save: bool) -> bool:
    """Let a run go on until a random instant, and kill it; return whether that was inside a save."""
    if in_save:
        settings = Settings(settings.directory, settings.mode, pause_at=generator.randrange(1, num_operations + 1))
        process = Process(settings)
        was_in_save = process.wait_for("paused")  # a resumed run may be over before
    else:
        process = Process(settings)
        process.wait_for("step", generator.randrange(1, TOTAL_STEPS))
        time.sleep(generator.random() * 0.003)  # about a step
        was_in_save = False
    process.signal(signal.SIGKILL)
    assert process.end() in (-signal.SIGKILL, 0)
    return was_in_save


def check_killed_run(directory: Path, expected: Expected, seed: int) -> int:
    """Kill a run up to three times, run it to its end, compare; return how often it was killed inside a save."""
    generator = random.Random(seed)
    settings = Settings(directory, MODES[seed % len(MODES)])
    whole, num_operations = expected(settings.mode)
    in_save = 0
    for number in range(generator.randrange(1, 4)):
        in_save += kill_once(settings, generator, num_operations=num_operations, in_save=(seed + number) % 2 == 0)
    assert Process(settings).end() == 0
    assert outcome(directory) == whole
    names = sorted(path.name for path in (directory / "checkpoints").iterdir())
    assert names == ["step_00000020", "step_00000024"]
    return in_save


def test_25_runs_killed_at_random_instants_end_with_the_same_bytes(tmp_path: Path, expected: Expected) -> None:
    in_save = [check_killed_run(tmp_path / str(seed), expected, seed) for seed in range(25)]
    assert sum(count > 0 for count in in_save) >= 8


@pytest.mark.soak
def test_200_runs_killed_at_random_instants_end_with_the_same_bytes(
    tmp_path: Path, expected: Expected, capsys: pytest.CaptureFixture[str]
) -> None:
    in_save = [check_killed_run(tmp_path / str(seed), expected, seed) for seed in range(1000, 1200)]
    with capsys.disabled():
        print(f"\n200 of 200 killed runs ended with the same bytes; {sum(map(bool, in_save))} of them inside a save.")


def test_killed_before_the_first_checkpoint_is_whole(tmp_path: Path, expected: Expected) -> None:
    process = Process(Settings(tmp_path, pause_at=8))
    assert process.wait_for("paused")
    process.signal(signal.SIGKILL)
    assert process.end() == -signal.SIGKILL
    assert not list_checkpoints(tmp_path / "checkpoints")
    assert Process(Settings(tmp_path)).end() == 0
    assert outcome(tmp_path) == expected("offline")[0]


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path: Path, expected: Expected) -> None:
    process = Process(Settings(tmp_path))
    assert process.wait_for("step", 18)
    process.signal(signal.SIGKILL)
    process.end()
    newest = list_checkpoints(tmp_path / "checkpoints")[-1]
    content = bytearray((newest / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "model.safetensors").write_bytes(content)
    assert Process(Settings(tmp_path)).end() == 0
    assert outcome(tmp_path) == expected("offline")[0]
    assert (tmp_path / "checkpoints" / "superseded_001" / newest.name).is_dir()


def interrupted(directory: Path, number: signal.Signals, seed: int, *, flushes: bool) -> float:
    """Send a signal to a run at a random instant, and return the seconds until its last step was saved.

    No more than the step that was going on may follow, and nothing that was done may be lost.
    """
    generator = random.Random(seed)
    mode, interval = generator.choice(["offline", "background"]), generator.choice([7, 1000])
    process = Process(Settings(directory, mode, total_steps=100_000, save_interval=interval, flushes=flushes))
    assert process.wait_for("step", generator.randrange(1, 40))
    time.sleep(generator.random() * 0.003)
    sent = process.signal(number)
    assert process.end() == 128 + number
    *events, (kind, last_step, saved) = process.events
    assert kind == "saved"
    steps = [(step, ended) for kind, step, ended in events if kind == "step"]
    assert sum(ended > sent for _, ended in steps) <= 1
    assert steps[-1][0] == last_step == load_checkpoint(directory / "checkpoints").step
    return saved - sent


def p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(0.99 * len(seconds)) - 1]


@pytest.mark.parametrize(("number", "count"), [(signal.SIGTERM, 50), (signal.SIGINT, 10)], ids=["SIGTERM", "SIGINT"])
def test_a_signal_at_a_random_instant_saves_within_a_step_and_a_second(
    tmp_path: Path, number: signal.Signals, count: int
) -> None:
    """Without flushes, which take as long as the disk is busy with what others write."""
    assert p99([interrupted(tmp_path / str(seed), number, seed, flushes=False) for seed in range(count)]) < 1.0


@pytest.mark.soak
def test_a_signal_at_a_random_instant_has_a_durable_checkpoint_within_a_step_and_a_second(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = [interrupted(tmp_path / str(seed), signal.SIGTERM, seed, flushes=True) for seed in range(50)]
    with capsys.disabled():
        print(f"\n50 SIGTERMs: the checkpoint was on the disk after {p99(seconds):.3f} s (p99).")
    assert p99(seconds) < 1.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("pause_at", [3, 30, 41])
def test_a_second_signal_acts_at_once_and_leaves_what_can_be_resumed(
    tmp_path: Path, expected: Expected, number: signal.Signals, pause_at: int
) -> None:
    process = Process(Settings(tmp_path, pause_at=pause_at))
    assert process.wait_for("paused")  # inside a save, which does not end
    process.signal(number)
    assert process.wait_for("noted")
    process.signal(number)
    assert process.end() == (-number if number == signal.SIGTERM else 128 + number)
    assert Process(Settings(tmp_path)).end() == 0
    assert outcome(tmp_path) == expected("offline")[0]
