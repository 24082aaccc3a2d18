"""Comparisons of policies on the same episodes."""

import pytest
from rich.console import Console

from worldline.cli.paired import Paired, best_of
from worldline.evaluation.rollout import EvaluationResult
from worldline.evaluation.statistics import compare_returns, compare_success


def result(*returns, successes=None, crashes=None):
    none = tuple(False for _ in returns)
    return EvaluationResult(
        returns=returns, lengths=tuple(1 for _ in returns), successes=successes, crashes=crashes, timeouts=none
    )


GOOD, FAIR, BAD = (1.0, 2.0, 3.0, 4.0), (1.0, 2.0, 2.0, 3.0), (0.0, 0.0, 1.0, 0.0)


def shown(table):
    console = Console(width=100)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_each_other_one_is_compared_and_corrected():
    paired = Paired.of({"bad": result(*BAD), "good": result(*GOOD), "fair": result(*FAIR)}, "good")
    bad, fair = paired.pairings
    assert [(bad.other, bad.measure), (fair.other, fair.measure)] == [("bad", "return"), ("fair", "return")]
    assert bad.comparison == compare_returns(BAD, GOOD)
    assert bad.comparison.difference == 2.25
    assert bad.comparison.p_value == 2 / 16
    assert bad.p_value == 2 * 2 / 16  # Holm, of two
    assert fair.p_value == fair.comparison.p_value == 8 / 16  # differences 0, 0, 1, 1


def test_numbers_are_of_json():
    bad, _ = Paired.of({"bad": result(*BAD), "good": result(*GOOD), "fair": result(*FAIR)}, "good").numbers()
    assert (bad["policy"], bad["against"], bad["measure"], bad["num_pairs"]) == ("good", "bad", "return", 4)
    assert bad["difference"] == 2.25
    assert bad["effect_size"] == pytest.approx(2.25 / 1.2583, abs=1e-3)  # differences 1, 2, 2, 4
    assert bad["interval95"] == list(compare_returns(BAD, GOOD).interval95)
    (alone,) = Paired.of({"a": result(1.0), "b": result(2.0)}, "a").numbers()
    assert (alone["difference"], alone["interval95"], alone["effect_size"]) == (-1.0, None, None)


def test_success_and_crashes_are_compared_where_both_are_known():
    first = result(*GOOD, successes=(True, True, True, False), crashes=(False, False, False, True))
    second = result(*BAD, successes=(False, False, True, False), crashes=(True, True, False, True))
    silent = result(*FAIR)
    found = {(p.other, p.measure): p for p in Paired.of({"a": first, "b": second, "c": silent}, "a").pairings}
    assert list(found) == [("b", "return"), ("b", "success"), ("b", "crash"), ("c", "return")]
    assert found["b", "success"].comparison == compare_success(second.successes, first.successes)
    assert found["b", "crash"].comparison.difference == -0.5
    text = shown(Paired.of({"a": first, "b": second, "c": silent}, "a").table())
    assert "+50 pp" in text
    assert "-50 pp" in text
    assert "+2.2" in text


def test_the_best_succeeds_most_often_and_then_returns_most():
    assert best_of({"a": result(1.0), "b": result(3.0), "c": result(2.0)}) == "b"
    assert best_of({"a": result(1.0, successes=(True,)), "b": result(3.0, successes=(False,))}) == "a"
    assert best_of({"a": result(1.0, successes=(True,)), "b": result(3.0)}) == "b"  # not known of both


def test_nobody_to_compare_with():
    assert Paired.of({"a": result(1.0)}, "a").pairings == []
