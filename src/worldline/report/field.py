"""What lies behind the points of a chart: shades over its plane, and the boundary of a region."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from worldline.episode import Array
from worldline.report.axes import Axis

_NUM_SHADES = 8
_OPACITY = 0.75  # of the darkest

Point = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Field:
    """Numbers on a grid of X x Y evenly spaced points."""

    x: Array  # [X], rising
    y: Array  # [Y], rising
    shades: Array  # [X, Y] in [0, 1], from none to the darkest
    heights: Array  # [X, Y]; the boundary is where they are 0
    name: str  # of the shades
    boundary_name: str

    def __post_init__(self) -> None:
        shape = (len(self.x), len(self.y))
        assert min(shape) > 1, f"a field has two points and more in each direction; got {shape}"
        assert self.shades.shape == self.heights.shape == shape, f"{self.shades.shape}, {self.heights.shape}: {shape}"

    @property
    def x_range(self) -> Point:
        """From the first point to the last one."""
        return float(self.x[0]), float(self.x[-1])

    @property
    def y_range(self) -> Point:
        """From the first point to the last one."""
        return float(self.y[0]), float(self.y[-1])


def shade_paths(field: Field, x_axis: Axis, y_axis: Axis) -> list[str]:
    """Return one path for each shade that occurs: the cells around the points that have it."""
    levels = np.ceil(np.nan_to_num(field.shades).clip(0, 1) * _NUM_SHADES).astype(int)  # [X, Y]
    xs = [x_axis.position(x) for x in _edges(field.x)]
    ys = [y_axis.position(y) for y in _edges(field.y)]
    runs: dict[int, list[str]] = {}
    for column, column_levels in enumerate(levels.tolist()):
        row = 0
        for level, group in itertools.groupby(column_levels):
            first, row = row, row + len(list(group))
            if level:
                corner = f"M{_short(xs[column])},{_short(ys[first])}"
                width = _short(xs[column + 1] - xs[column])
                runs.setdefault(level, []).append(f"{corner}h{width}V{_short(ys[row])}h-{width}z")
    return [
        f'<path class="shade accent" fill-opacity="{_OPACITY * level / _NUM_SHADES:.2f}" d="{"".join(parts)}"/>'
        for level, parts in sorted(runs.items())
    ]


def boundary_path(field: Field, x_axis: Axis, y_axis: Axis) -> str:
    """Return the boundary as one path, empty where there is none."""
    parts = []
    for start, end in boundary(field):
        (x1, y1), (x2, y2) = ((x_axis.position(x), y_axis.position(y)) for x, y in (start, end))
        parts.append(f"M{_short(x1)},{_short(y1)}L{_short(x2)},{_short(y2)}")
    return f'<path class="boundary" d="{"".join(parts)}"/>'


def boundary(field: Field) -> Iterator[tuple[Point, Point]]:
    """Yield the pieces of the line on which the heights are 0, each from one point to another.

    Every cell of the grid is cut into two triangles, on which the heights are taken to be linear.
    """
    largest = np.abs(field.heights[np.isfinite(field.heights)]).max(initial=1.0)
    heights = np.nan_to_num(field.heights, nan=largest, posinf=largest, neginf=-largest)
    above = heights > 0
    corners = np.stack((above[:-1, :-1], above[1:, :-1], above[:-1, 1:], above[1:, 1:]))
    for i, j in np.argwhere(corners.any(0) & ~corners.all(0)).tolist():
        for triangle in (((i, j), (i + 1, j), (i + 1, j + 1)), ((i, j), (i, j + 1), (i + 1, j + 1))):
            crossings = [
                _between(field, heights, one, other)
                for one, other in itertools.combinations(triangle, 2)
                if above[one] != above[other]
            ]
            if crossings:  # a line that enters a triangle leaves it: there are two
                yield crossings[0], crossings[1]


def _between(field: Field, heights: Array, one: tuple[int, int], other: tuple[int, int]) -> Point:
    """Return where the height is 0 between two points of the grid."""
    share = float(heights[one] / (heights[one] - heights[other]))
    return (
        float(field.x[one[0]] + share * (field.x[other[0]] - field.x[one[0]])),
        float(field.y[one[1]] + share * (field.y[other[1]] - field.y[one[1]])),
    )


def _edges(centres: Array) -> list[float]:
    """Return where the cells around points begin and end; the outer ones end at their points."""
    middles = (centres[1:] + centres[:-1]) / 2
    return [float(centres[0]), *map(float, middles), float(centres[-1])]


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
