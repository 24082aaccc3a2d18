"""Ticks and positions worked out by hand."""

import pytest

from worldline.report.axes import Axis, format_ticks, linear_axis, log_axis


def test_linear_axis_widens_to_round_ticks():
    axis = linear_axis([0.3, 9.1], start=0, end=100)
    assert axis.ticks == (0.0, 2.5, 5.0, 7.5, 10.0)
    assert (axis.low, axis.high) == (0, 10)
    assert [axis.position(value) for value in (0, 2.5, 10)] == [0, 25, 100]


def test_tight_axis_keeps_its_ends_and_counts_have_whole_ticks():
    axis = linear_axis([1, 15], start=10, end=150, is_tight=True, num_ticks=9)
    assert (axis.low, axis.high) == (1, 15)
    assert axis.ticks == (2, 4, 6, 8, 10, 12, 14)
    assert axis.position(15) == 150
    assert linear_axis([0, 2], start=0, end=1, num_ticks=9).ticks == (0, 1, 2)


@pytest.mark.parametrize("value", [0.0, 5.0, -2.0, 1e-9])
def test_a_single_number_gets_room_on_both_sides(value):
    axis = linear_axis([value], start=0, end=100)
    assert axis.low < value < axis.high
    assert len(axis.ticks) >= 2


def test_log_axis_marks_decades():
    axis = log_axis([0.002, 30], start=100, end=0)
    assert axis.ticks == pytest.approx((0.001, 0.01, 0.1, 1, 10, 100))
    assert axis.position(0.001) == 100
    assert axis.position(1) == pytest.approx(40)
    assert axis.position(100) == 0


def test_log_axis_within_a_decade_has_marks_between():
    assert log_axis([0.03, 0.4], start=0, end=1).ticks == pytest.approx((0.02, 0.05, 0.1, 0.2, 0.5))
    assert log_axis([1, 1], start=0, end=1).ticks == (1, 2)


def test_log_axis_over_many_decades_has_few_marks():
    axis = log_axis([1e-12, 1e8], start=0, end=1)
    assert len(axis.ticks) <= 7
    assert (axis.low, axis.high) == (pytest.approx(1e-12), pytest.approx(1e8))


def test_positions_are_proportional():
    axis = Axis(low=-1, high=3, start=200, end=0, ticks=())
    assert axis.position(1) == 100


@pytest.mark.parametrize("step", [1e-6, 5e-5, 0.25, 1.0, 10.0])
@pytest.mark.parametrize("start", [-1.0, 0.0, 2e-4, 0.69, 20.0, 31234.0, 5e6, 3e9])
def test_ticks_are_told_apart(start, step):
    written = format_ticks([start + index * step for index in range(5)])
    assert len(set(written)) == 5


def test_ticks_that_cannot_be_told_apart_are_still_written():
    assert format_ticks([1.0, 1.0]) == ["1", "1"]
    assert format_ticks([]) == []


def test_numbers_that_only_rounding_tells_apart_have_an_axis():
    axis = linear_axis([1.0, 1.0000000000000002], start=0, end=100)
    assert 0 < axis.position(1.0) < 100
