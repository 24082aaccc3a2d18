"""What policies achieved, as numbers and text."""

import json

import pytest
from rich.console import Console

from worldline.cli.measured import (
    interval_text,
    obedience_table,
    obedience_texts,
    result_numbers,
    result_of_numbers,
    returns_rows,
    returns_table,
)
from worldline.evaluation.rollout import EvaluationResult

PLAIN = EvaluationResult(returns=(1.0, 3.0), lengths=(5, 6), timeouts=(True, False))
LANDED = EvaluationResult(
    returns=(100.0, 300.0),
    lengths=(5, 6),
    successes=(True, True),
    crashes=(False, False),
    timeouts=(False, False),
)


@pytest.mark.parametrize("result", [PLAIN, LANDED, EvaluationResult(returns=(1.0,), lengths=(2,))])
def test_numbers_come_back_through_json(result):
    assert result_of_numbers(json.loads(json.dumps(result_numbers(result)))) == result


def test_numbers_that_lack_something_are_refused():
    numbers = result_numbers(LANDED)
    del numbers["crashes"]
    with pytest.raises(KeyError):
        result_of_numbers(numbers)


def test_outcomes_have_intervals_where_crashes_are_known():
    names, (landed, plain) = returns_rows({"a": LANDED, "b": PLAIN})
    assert names == ["mean return", "success", "crash", "timeout"]
    assert landed == ["200.0 (-1070.6 to 1470.6)", "100% (34 to 100)", "0% (0 to 66)", "0% (0 to 66)"]
    assert plain[1:] == ["-", "-", "-"]
    names, (row,) = returns_rows({"b": PLAIN})
    assert names == ["mean return", "std", "95% interval", "min", "max", "mean length"]
    assert row == ["2.0", "1.4", "-10.7 to 14.7", "1.0", "3.0", "5.5"]


def test_outcomes_fit_into_a_narrow_terminal():
    console = Console(width=80)
    with console.capture() as capture:
        console.print(returns_table("t", {"no shield": LANDED, "flow_matching_shield": LANDED, "random": LANDED}))
    lines = capture.get().splitlines()
    assert any("34 to 100" in line and "-1070.6 to 1470.6" in line for line in lines)
    assert all(word in capture.get() for word in ("flow_matching_shield", "success", "crash", "timeout"))


def test_what_was_told_and_done_by_hand():
    texts = obedience_texts((4.0, 5.0), PLAIN)
    assert texts == {"steps": ("4.0", "5.5", "-0.9 to 11.9", "1.5"), "return": ("5.0", "2.0", "-10.7 to 14.7", "3.0")}
    console = Console(width=80)
    with console.capture() as capture:
        console.print(obedience_table((4.0, 5.0), PLAIN))
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capture.get().splitlines() if "│" in line]
    assert lines == [[what, *row] for what, row in texts.items()]


def test_an_interval_that_is_none_is_no_number():
    assert interval_text((0.25, 0.5), ".0%") == "25% to 50%"
    assert interval_text((float("nan"), float("nan"))) == interval_text(None) == "-"
