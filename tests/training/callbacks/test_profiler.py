"""ProfilerCallback: which steps it records, what it writes and prints, and that it changes no number."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from training.tiny_training import TinyModel, TinySampler, make_config, same_state, state_of
from worldline.errors import ConfigError
from worldline.training import Callback, ProfilerCallback, Trainer


def profiled(
    directory: Path, total_steps: int, *callbacks: Callback, **settings: int
) -> tuple[Trainer[TinyModel], str]:
    trainer = Trainer(
        TinyModel(), make_config(total_steps=total_steps), [ProfilerCallback(directory, **settings), *callbacks]
    )
    text = io.StringIO()
    trainer._console = Console(file=text, width=200)
    trainer.train(TinySampler())
    return trainer, text.getvalue()


def steps_of(trace: Path) -> int:
    names = {event.get("name", "") for event in json.loads(trace.read_text())["traceEvents"]}
    assert any(name.startswith("aten::") for name in names)
    return sum(name.startswith("ProfilerStep#") for name in names)


def test_a_trace_and_a_table_of_the_steps_that_were_asked_for(tmp_path: Path) -> None:
    trainer, printed = profiled(tmp_path, 12, wait=4, warmup=2, active=3)
    (trace,) = (tmp_path / "profile").iterdir()
    assert trace.name == "trace_step_00000009.json"
    assert steps_of(trace) == 3
    assert str(trace) in printed
    assert "aten::addmm" in printed
    assert "ProfilerStep" not in printed
    plain = Trainer(TinyModel(), make_config(total_steps=12))
    assert same_state(state_of(plain.train(TinySampler())), state_of(trainer.model))


def test_a_short_run_waits_less(tmp_path: Path) -> None:
    profiled(tmp_path, 4, wait=10, warmup=2, active=5)
    (trace,) = (tmp_path / "profile").iterdir()
    assert (trace.name, steps_of(trace)) == ("trace_step_00000004.json", 2)


class Stop(Callback):
    def __init__(self, at: int) -> None:
        self.at = at

    def on_step_begin(self, step: int) -> None:
        if step == self.at:
            self.trainer.request_stop("enough")


def test_a_run_that_ends_while_it_is_recorded_has_a_trace(tmp_path: Path) -> None:
    profiled(tmp_path, 20, Stop(6), wait=2, warmup=2, active=5)
    (trace,) = (tmp_path / "profile").iterdir()
    assert (trace.name, steps_of(trace)) == ("trace_step_00000006.json", 3)  # two steps, and what followed the second


def test_a_run_that_ends_before_says_so(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="ended at step 3, before the steps that were to be profiled"):
        profiled(tmp_path, 20, Stop(3), wait=5)
    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize("settings", [{"wait": -1}, {"warmup": -1}, {"active": 0}])
def test_impossible_settings_are_refused(settings: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ProfilerCallback needs"):
        ProfilerCallback(tmp_path, **settings)
