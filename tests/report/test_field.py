"""Shades and boundaries are where the numbers say."""

import re

import numpy as np
import pytest

from worldline.report.axes import linear_axis
from worldline.report.field import Field, boundary, boundary_path, shade_paths

X, Y = np.linspace(0.0, 4.0, 5), np.linspace(0.0, 2.0, 3)


def field(heights=None, shades=None):
    blank = np.zeros((5, 3))
    return Field(
        x=X,
        y=Y,
        shades=blank if shades is None else shades,
        heights=blank - 1 if heights is None else heights,
        name="density",
        boundary_name="boundary",
    )


def axes():
    return linear_axis([0.0, 4.0], start=0, end=40, is_tight=True), linear_axis([0, 2], start=20, end=0, is_tight=True)


def test_the_boundary_of_a_half_plane_is_its_straight_line():
    pieces = list(boundary(field(X[:, None] + 2 * Y[None, :] - 3.5)))
    for point in (point for piece in pieces for point in piece):
        assert point[0] + 2 * point[1] == pytest.approx(3.5)
    length = sum(np.hypot(a - c, b - d) for (a, b), (c, d) in pieces)
    assert length == pytest.approx(np.hypot(3.5, 1.75))  # from (3.5, 0) to (0, 1.75), whole and without gaps


def test_a_circle_is_closed():
    x = np.linspace(-2, 2, 41)
    circle = Field(
        x=x,
        y=x,
        shades=np.zeros((41, 41)),
        heights=x[:, None] ** 2 + x[None, :] ** 2 - 1,
        name="",
        boundary_name="",
    )
    ends = {}
    for point in (tuple(np.round(point, 9)) for piece in boundary(circle) for point in piece):
        ends[point] = ends.get(point, 0) + 1
        assert np.hypot(*point) == pytest.approx(1, abs=0.01)
    assert len(ends) > 50
    assert all(count % 2 == 0 for count in ends.values())  # where one piece ends, another begins


def test_what_is_all_allowed_or_forbidden_has_no_boundary_and_infinities_are_far_off():
    assert list(boundary(field(np.ones((5, 3))))) == []
    assert list(boundary(field(-np.ones((5, 3))))) == []
    heights = np.where(X[:, None] < 1.5, np.inf, -1.0) + np.zeros((5, 3))
    assert {point[0] for piece in boundary(field(heights)) for point in piece} == {1.5}
    assert boundary_path(field(heights), *axes()).count("M15,") == 4  # two cells of two triangles


def test_shades_cover_the_cells_of_their_points():
    shades = np.zeros((5, 3))
    shades[1, 1:] = 1.0
    shades[3, 0] = 0.25
    light, dark = shade_paths(field(shades=shades), *axes())
    assert 'fill-opacity="0.75" d="M5,15h10V0h-10z"' in dark  # x 0.5 to 1.5, y 0.5 to 2, as one piece
    assert 'fill-opacity="0.19" d="M25,20h10V15h-10z"' in light
    assert shade_paths(field(shades=np.full((5, 3), np.nan)), *axes()) == []
    assert len(re.findall("M", shade_paths(field(shades=np.ones((5, 3))), *axes())[0])) == 5


def test_shapes_must_agree():
    with pytest.raises(AssertionError, match=r"\(5, 3\)"):
        field(np.zeros((3, 5)))
