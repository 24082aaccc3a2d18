"""What is drawn from what was measured."""

import numpy as np
import pytest

from worldline.report.figures import (
    compared_curves,
    horizon_table,
    learning_curves,
    machine_curves,
    open_loop_curves,
    returns_by_rank,
    settings_table,
    trajectories,
)


def test_learning_curves_begin_with_the_loss_and_leave_speed_out():
    rows = [
        {"step": 1, "rec": 3.0, "loss": 5.0, "learning_rate": 1e-3},
        {"step": 2, "loss": 4.0, "steps_per_second": 9},
    ]
    charts = learning_curves(rows).charts
    assert [chart.title for chart in charts] == ["loss", "rec"]
    assert (charts[0].series[0].x, charts[0].series[0].y) == ([1, 2], [5.0, 4.0])
    assert (charts[1].series[0].x, charts[1].series[0].y) == ([1], [3.0])


def test_a_loss_and_that_of_evaluations_share_a_chart():
    rows = [{"step": 1, "loss": 5.0}, {"step": 2, "loss": 4.0, "eval/loss": 6.0, "eval/return": 7.0}]
    loss, returned = learning_curves(rows).charts
    assert [(line.name, line.x, line.y) for line in loss.series] == [
        ("training", [1, 2], [5.0, 4.0]),
        ("evaluation", [2], [6.0]),
    ]
    assert loss.series[0].color != loss.series[1].color
    assert (returned.title, returned.series[0].y) == ("eval: return", [7.0])


def test_curves_of_the_machine_are_apart():
    rows = [
        {
            "step": 1,
            "loss": 3.0,
            "memory_mb": 5.0,
            "steps_per_second": 2.0,
            "rows_per_second": 8.0,
            "train_seconds": 1.0,
        },
        {"step": 2, "loss": 3.0, "steps_per_second": 3.0, "collect/steps_per_second": 7.0, "learning_rate": 1.0},
    ]
    assert [chart.title for chart in learning_curves(rows).charts] == ["loss"]
    charts = machine_curves(rows).charts
    assert [chart.title for chart in charts] == ["steps per second", "memory (MB)", "collect: steps per second"]
    assert (charts[0].series[0].x, charts[0].series[0].y) == ([1, 2], [2.0, 3.0])
    assert machine_curves([{"step": 1, "loss": 3.0}]) is None


def test_runs_side_by_side_keep_their_colours():
    runs = {
        "a": [{"step": 1, "z": 1.0, "x": 2.0, "loss": 3.0}],
        "b": [{"step": 1, "x": 1.0}],
        "c": [{"step": 5, "loss": 2.0}],
    }
    loss, x, z = compared_curves(runs).charts
    assert [chart.title for chart in (loss, x, z)] == ["loss", "x", "z (a)"]
    assert [(line.name, line.x, line.y, line.color) for line in loss.series] == [
        ("a", [1], [3.0], "accent"),
        ("c", [5], [2.0], "third"),
    ]
    assert [line.name for line in x.series] == ["a", "b"]
    (many,) = compared_curves({str(number): [{"step": 1, "loss": 1.0}] for number in range(5)}).charts
    assert [(line.color, line.is_dashed) for line in many.series][3:] == [("true", False), ("accent", True)]


def test_too_many_curves_are_cut_and_counted():
    rows = [{"step": 1, **{f"m{index}": 1.0 for index in range(30)}}]
    figure = learning_curves(rows)
    assert len(figure.charts) == 24
    assert "6 more are in metrics.jsonl" in figure.caption


def test_returns_are_sorted():
    (chart,) = returns_by_rank({"learnt": [3, 1, 2], "random": [0]}).charts
    assert (chart.series[0].x, chart.series[0].y) == ([1, 2, 3], [1, 2, 3])
    assert (chart.series[1].color, chart.series[1].is_dashed) == ("muted", True)


def test_policies_that_compete_have_colours():
    (chart,) = returns_by_rank({"a": [1], "b": [2], "random": [0]}, num_coloured=2).charts
    assert [(line.color, line.is_dashed) for line in chart.series] == [
        ("accent", False),
        ("second", False),
        ("muted", True),
    ]


def test_open_loop_curves_begin_at_one_step_on_a_log_axis():
    raw, normalised = open_loop_curves([1, 2], [3, 4], model_normalised=[5, 6], copy_normalised=[7, 8]).charts
    assert (raw.series[0].x, raw.series[0].y, raw.series[1].y) == ([1, 2], [1, 2], [3, 4])
    assert (normalised.series[0].y, normalised.series[1].y) == ([5, 6], [7, 8])
    assert raw.is_log
    assert normalised.is_log


def test_imagination_branches_off_the_last_observed_row():
    actual = np.arange(10.0).reshape(1, 5, 2)  # C = 2, H = 3
    imagined = 100 + np.arange(6.0).reshape(1, 3, 2)
    (figure,) = trajectories(actual, imagined, names=["a", "b"])
    second = figure.charts[1]
    real, dream = second.series
    assert (real.x, real.y) == ([0, 1, 2, 3, 4], [1, 3, 5, 7, 9])
    assert (dream.x, dream.y) == ([1, 2, 3, 4], [3, 101, 103, 105])
    assert second.marker == 1


def test_settings_are_written_for_people():
    values = {"a": True, "b": None, "c": 12345, "d": 3e-4, "e": (1, 2), "f": (), "g": {"x": [4]}, "h": "text"}
    rows = dict(settings_table("T", values).rows)
    assert rows == {
        "a": "yes", "b": "none", "c": "12,345", "d": "3e-4", "e": "1, 2", "f": "none", "g": "x: 4", "h": "text",
    }  # fmt: skip


def test_horizon_table_has_ratios():
    table = horizon_table([0.1, 0.5], [0.2, 0.0], [10, 2000])
    assert list(table.rows) == [("1", "0.1", "0.2", "0.500", "10"), ("2", "0.5", "0", "", "2,000")]


@pytest.mark.parametrize("num", [0, 2])
def test_as_many_figures_as_windows(num):
    assert len(trajectories(np.zeros((num, 5, 1)), np.zeros((num, 3, 1)), names=["a"])) == num
