"""A run killed with SIGKILL at any instant, and run again, ends with the same bytes; one asked to end saves first.

The run has one process, or two, of which one is killed.
"""

from __future__ import annotations

import dataclasses
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from training.killable_run import MODES, TOTAL_STEPS, Run, Settings, outcome
from worldline.training.checkpoint import list_checkpoints, load_checkpoint

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")


class Expected:
    """What uninterrupted runs end with, and how many operations on the disk they take."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._found: dict[tuple[str, int], tuple[dict[str, Any], int]] = {}

    def __call__(self, mode: str = "offline", num_ranks: int = 1) -> tuple[dict[str, Any], int]:
        if (mode, num_ranks) not in self._found:
            directory = self._root / f"{mode}_{num_ranks}"
            with Run(Settings(directory, mode, num_ranks)) as run:
                assert run.end() == [0] * num_ranks
            self._found[mode, num_ranks] = outcome(directory), run.events[-1][1]
        return self._found[mode, num_ranks]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Expected:
    return Expected(tmp_path_factory.mktemp("whole"))


def check_resumed(settings: Settings, expected: Expected) -> None:
    """Run what was killed to its end, and compare."""
    with Run(settings) as run:
        assert run.end() == [0] * settings.num_ranks
    assert outcome(settings.directory) == expected(settings.mode, settings.num_ranks)[0]


def kill_once(settings: Settings, generator: random.Random, *, num_operations: int, in_save: bool) -> bool:
    """Let a run go on until a random instant, and kill a process of it; return whether that was inside a save."""
    if in_save:
        rank = 0  # which writes
        settings = dataclasses.replace(settings, pause_at=generator.randrange(1, num_operations + 1))
    else:
        rank = generator.randrange(settings.num_ranks)
    with Run(settings) as run:
        if in_save:
            was_in_save = run.wait_for("paused") and run.events[-1][1] == 1  # a resumed run may be over before
        else:
            run.wait_for("step", generator.randrange(1, TOTAL_STEPS), rank=rank)
            time.sleep(generator.random() * 0.003)  # about a step
            was_in_save = False
        run.signal(signal.SIGKILL, rank=rank)
        assert run.end()[rank] in (-signal.SIGKILL, 0)
    return was_in_save


def check_killed_run(directory: Path, expected: Expected, seed: int) -> tuple[int, int]:
    """Kill a run up to three times, run it to its end, compare.

    Returns the number of its processes, and how often it was killed inside a save.
    """
    generator = random.Random(seed)
    settings = Settings(directory, MODES[seed % len(MODES)], num_ranks=1 + (seed % 3 == 0))
    _, num_operations = expected(settings.mode, settings.num_ranks)
    in_save = 0
    for number in range(generator.randrange(1, 4)):
        in_save += kill_once(settings, generator, num_operations=num_operations, in_save=(seed + number) % 2 == 0)
    check_resumed(settings, expected)
    names = sorted(path.name for path in (directory / "checkpoints").iterdir())
    assert names == ["step_00000020", "step_00000024"]
    return settings.num_ranks, in_save


def test_25_runs_killed_at_random_instants_end_with_the_same_bytes(tmp_path: Path, expected: Expected) -> None:
    killed = [check_killed_run(tmp_path / str(seed), expected, seed) for seed in range(25)]
    assert sum(in_save > 0 for _, in_save in killed) >= 8
    of_two = [in_save for num_ranks, in_save in killed if num_ranks == 2]
    assert len(of_two) >= 5
    assert sum(in_save > 0 for in_save in of_two) >= 3


@pytest.mark.soak
def test_200_runs_killed_at_random_instants_end_with_the_same_bytes(
    tmp_path: Path, expected: Expected, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = [check_killed_run(tmp_path / str(seed), expected, seed) for seed in range(1000, 1200)]
    in_save = [num_ranks for num_ranks, count in killed if count]
    of_two = [num_ranks for num_ranks, _ in killed if num_ranks == 2]
    with capsys.disabled():
        print(
            f"\n200 of 200 killed runs ended with the same bytes, {len(in_save)} of them killed inside a save; "
            f"{len(of_two)} had two processes, {in_save.count(2)} of them killed inside a save."
        )


def test_killed_before_the_first_checkpoint_is_whole(tmp_path: Path, expected: Expected) -> None:
    with Run(Settings(tmp_path, pause_at=8)) as run:
        assert run.wait_for("paused")
        run.signal(signal.SIGKILL)
        assert run.end() == [-signal.SIGKILL]
    assert not list_checkpoints(tmp_path / "checkpoints")
    check_resumed(Settings(tmp_path), expected)


@pytest.mark.parametrize("rank", [0, 1])
def test_killed_while_the_processes_meet(tmp_path: Path, expected: Expected, rank: int) -> None:
    settings = Settings(tmp_path, num_ranks=2)
    with Run(settings) as run:
        run.signal(signal.SIGKILL, rank=rank)
        statuses = run.end()
    assert statuses[rank] == -signal.SIGKILL
    assert statuses[1 - rank] != 0
    check_resumed(settings, expected)


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path: Path, expected: Expected) -> None:
    with Run(Settings(tmp_path)) as run:
        assert run.wait_for("step", 18)
        run.signal(signal.SIGKILL)
        run.end()
    newest = list_checkpoints(tmp_path / "checkpoints")[-1]
    content = bytearray((newest / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "model.safetensors").write_bytes(content)
    check_resumed(Settings(tmp_path), expected)
    assert (tmp_path / "checkpoints" / "superseded_001" / newest.name).is_dir()


def interrupted(directory: Path, number: signal.Signals, seed: int, *, flushes: bool) -> float:
    """Send a signal to a run at a random instant, and return the seconds until its last step was saved.

    No more than the step that was going on may follow, and nothing that was done may be lost.
    """
    generator = random.Random(seed)
    mode, interval = generator.choice(["offline", "background"]), generator.choice([7, 1000])
    with Run(Settings(directory, mode, total_steps=100_000, save_interval=interval, flushes=flushes)) as run:
        assert run.wait_for("step", generator.randrange(1, 40))
        time.sleep(generator.random() * 0.003)
        sent = run.signal(number)
        assert run.end() == [128 + number]
    *events, (kind, last_step, saved) = run.events
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
    with Run(Settings(tmp_path, pause_at=pause_at)) as run:
        assert run.wait_for("paused")  # inside a save, which does not end
        run.signal(number)
        assert run.wait_for("noted")
        run.signal(number)
        assert run.end() == [-number if number == signal.SIGTERM else 128 + number]
    check_resumed(Settings(tmp_path), expected)
