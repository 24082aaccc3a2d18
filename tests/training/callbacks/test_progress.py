"""ProgressCallback: lines without a terminal, a bar on one, and an end in both."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from training.tiny_training import TinyModel, TinySampler, make_config
from worldline.errors import ConfigError
from worldline.training import ProgressCallback, Trainer


def shown(callback: ProgressCallback, *, terminal: bool) -> str:
    trainer = Trainer(TinyModel(), make_config(), [callback])
    text = io.StringIO()
    trainer._console = Console(file=text, force_terminal=terminal, width=120)
    trainer.train(TinySampler())
    return text.getvalue()


def test_plain_lines_at_the_interval_and_at_the_end() -> None:
    lines = shown(ProgressCallback(line_interval=8), terminal=False).splitlines()
    assert [line.split(":")[0] for line in lines] == ["step 8 of 20", "step 16 of 20", "step 20 of 20"]
    assert "loss" in lines[0]
    assert "steps/s" in lines[0]
    assert lines[-1].endswith("finished")


def test_without_an_interval_a_short_run_shows_its_end_only() -> None:
    assert len(shown(ProgressCallback(), terminal=False).splitlines()) == 1


def test_a_bar_on_a_terminal() -> None:
    text = shown(ProgressCallback(), terminal=True)
    assert "20/20" in text
    assert "finished" in text


def test_an_impossible_interval_is_refused() -> None:
    with pytest.raises(ConfigError, match="line_interval of at least 1"):
        ProgressCallback(line_interval=0)
