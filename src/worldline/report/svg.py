"""Charts as inline SVG, with axes and legend or bare. Colours are classes, so that the page decides on them."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import math
from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape, quoteattr

from worldline.report.axes import Axis, format_number, format_ticks, linear_axis, log_axis
from worldline.report.field import Field, boundary_path, shade_paths

COLORS = ("accent", "second", "third", "true")  # classes of the page, for lines that are told apart

_MAX_POINTS = 400  # a line has no more; neighbours are averaged
_MAX_HOVER = 60  # a line with at most this many points tells their values under the pointer
_LETTER = 6.4  # width of a letter of the legend, in pixels; the font is the reader's, so this is a guess
_TOP, _RIGHT, _BOTTOM, _LEFT = 10.0, 14.0, 42.0, 52.0  # margins
_LEGEND = 24.0  # height of a line of the legend


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """A line: points in order of x, each with an interval if need be. A y that is NaN or infinite leaves a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: str = "accent"  # a class of the page: accent, second, third, muted or true
    is_dashed: bool = False
    has_line: bool = True  # otherwise points alone
    intervals: Sequence[tuple[float, float]] = ()  # of each y, drawn as bars; infinite ones are left out

    def __post_init__(self) -> None:
        assert len(self.x) == len(self.y), f"{self.name}: x and y have lengths {len(self.x)} and {len(self.y)}"
        assert len(self.intervals) in (0, len(self.y)), f"{self.name}: {len(self.intervals)} intervals of {len(self.y)}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LineChart:
    """What to draw. `title` is what a screen reader says; the page prints its own heading."""

    title: str
    series: Sequence[Series]
    x_label: str = ""
    y_label: str = ""
    is_log: bool = False  # y axis
    marker: float | None = None  # x of a vertical line
    field: Field | None = None  # behind the lines
    width: int = 640
    height: int = 320


def line_chart(chart: LineChart) -> str:
    """Return the chart as one `<svg>` element; a chart without a single finite number says so."""
    series = [_thinned(_drawable(line, is_log=chart.is_log)) for line in chart.series]
    xs = [x for line in series for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
    ys = [y for line in series for y in line.y if math.isfinite(y)]
    ys += [end for line in series for interval in line.intervals for end in interval if math.isfinite(end)]
    if chart.field is not None:
        xs, ys = [*xs, *chart.field.x_range], [*ys, *chart.field.y_range]
    if not xs:
        body = [_text("tick", (chart.width / 2, chart.height / 2), "no data", "middle")]
        return _svg(chart, body)
    left = _LEFT + (16.0 if chart.y_label else 0.0)
    keys = _keys(chart.field, series)
    legend, legend_height = _legend(keys, left, chart.width) if len(keys) > 1 else ([], 0.0)
    bottom = chart.height - (_BOTTOM if chart.x_label else _BOTTOM - 18.0)
    small = chart.width < 400
    x_axis = linear_axis(xs, start=left, end=chart.width - _RIGHT, num_ticks=5 if small else 9, is_tight=True)
    y_axis = (
        log_axis(ys, start=bottom, end=_TOP + legend_height)
        if chart.is_log
        else linear_axis(
            ys,
            start=bottom,
            end=_TOP + legend_height,
            num_ticks=5 if small else 9 if chart.field is not None else 6,
            is_tight=chart.field is not None,
        )
    )
    body = [*_grid(chart, x_axis, y_axis), *legend]
    if chart.field is not None:
        body = [*shade_paths(chart.field, x_axis, y_axis), *body, boundary_path(chart.field, x_axis, y_axis)]
    if chart.marker is not None:
        x = x_axis.position(chart.marker)
        body.append(_rule("marker", (x, y_axis.start), (x, y_axis.end)))
    body += [part for line in series for part in _line(line, x_axis, y_axis)]
    return _svg(chart, body)


def standalone(svg: str) -> str:
    """Return the text of an SVG file for what `line_chart` returned: with its styles, and light on a light page."""
    opening, rest = svg.split(">", 1)
    return f'{opening} xmlns="http://www.w3.org/2000/svg"><style>{chart_style()}</style>{rest}\n'


@functools.cache
def chart_style() -> str:
    """Return the styles of charts, which pages have too."""
    return (importlib.resources.files("worldline.report") / "templates" / "chart.css").read_text(encoding="utf-8")


def sparkline(line: Series, *, width: int = 120, height: int = 28) -> str:
    """Return the bare line as one `<svg>` element, from its lowest value to its highest; no points give no text."""
    line = _thinned(line, width // 2)
    points = [(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
    if not points:
        return ""
    x_axis, y_axis = _bare_axis([x for x, _ in points], 2, width - 2), _bare_axis([y for _, y in points], height - 2, 2)
    parts = _strokes(line, x_axis, y_axis)
    opening = f'<svg class="spark" role="img" aria-label={quoteattr(line.name)} viewBox="0 0 {width} {height}">'
    return "".join([opening, *parts, "</svg>"])


def _bare_axis(values: Sequence[float], start: float, end: float) -> Axis:
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 1.0, high + 1.0
    return Axis(low=low, high=high, start=start, end=end, ticks=())


def _svg(chart: LineChart, body: Iterable[str]) -> str:
    label = quoteattr(chart.title)
    opening = f'<svg class="chart" role="img" aria-label={label} viewBox="0 0 {chart.width} {chart.height}">'
    return "\n".join([opening, f"<title>{escape(chart.title)}</title>", *body, "</svg>"])


def _grid(chart: LineChart, x_axis: Axis, y_axis: Axis) -> list[str]:
    left, right, base = x_axis.start, x_axis.end, y_axis.start
    parts = []
    for tick, written in zip(y_axis.ticks, format_ticks(y_axis.ticks), strict=True):
        y = y_axis.position(tick)
        parts.append(_rule("grid", (left, y), (right, y)))
        parts.append(_text("tick", (left - 8, y), written, "end", is_centred=True))
    parts.append(_rule("axis", (left, base), (right, base)))
    for tick, written in zip(x_axis.ticks, format_ticks(x_axis.ticks), strict=True):
        x = x_axis.position(tick)
        parts.append(_rule("axis", (x, base), (x, base + 4)))
        middle = min(x, chart.width - _LETTER * len(written) / 2)  # inside the picture
        parts.append(_text("tick", (middle, base + 17), written, "middle"))
    if chart.x_label:
        parts.append(_text("label", ((left + right) / 2, chart.height - 6), chart.x_label, "middle"))
    if chart.y_label:
        turn = f"translate(13 {_round((base + y_axis.end) / 2)}) rotate(-90)"
        parts.append(f'<text class="label" transform="{turn}" text-anchor="middle">{escape(chart.y_label)}</text>')
    return parts


def _strokes(line: Series, x_axis: Axis, y_axis: Axis) -> list[str]:
    dashes = " dashed" if line.is_dashed else ""
    parts = []
    points = [(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
    for run in _runs(line) if line.has_line else ():
        path = " ".join(f"{_round(x_axis.position(x))},{_round(y_axis.position(y))}" for x, y in run)
        parts.append(f'<polyline class="line {line.color}{dashes}" points="{path}"/>')
    for x, (low, high) in zip(line.x, line.intervals, strict=False):
        if math.isfinite(low) and math.isfinite(high):
            at = x_axis.position(x)
            parts.append(_rule(f"bar {line.color}", (at, y_axis.position(low)), (at, y_axis.position(high))))
    if len(points) == 1 or not line.has_line:  # a line of one point would not be seen
        for x, y in points:
            where = f'cx="{_round(x_axis.position(x))}" cy="{_round(y_axis.position(y))}"'
            parts.append(f'<circle class="dot {line.color}" {where} r="3.5"/>')
    return parts


def _line(line: Series, x_axis: Axis, y_axis: Axis) -> list[str]:
    parts = _strokes(line, x_axis, y_axis)
    points = [(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
    if len(points) <= _MAX_HOVER:
        for x, y in points:
            where = f'cx="{_round(x_axis.position(x))}" cy="{_round(y_axis.position(y))}"'
            text = escape(f"{line.name} at {format_number(x)}: {format_number(y)}")
            parts.append(f'<circle class="hover {line.color}" {where} r="5"><title>{text}</title></circle>')
    return parts


@dataclasses.dataclass(frozen=True)
class _Key:
    """What the legend says about one thing that is drawn."""

    name: str
    css: str
    width: float = 22.0  # of the sample before the name; that of a point is a disc, of others a line or a patch
    height: float = 0.0


def _keys(field: Field | None, series: Iterable[Series]) -> list[_Key]:
    keys = []
    if field is not None:
        keys = [_Key(field.name, "shade accent", height=10.0), _Key(field.boundary_name, "boundary")]
    for line in series:
        is_point = not line.has_line or (len(line.x) == 1 and field is not None)
        css = f"dot {line.color}" if is_point else f"line {line.color}{' dashed' if line.is_dashed else ''}"
        keys.append(_Key(line.name, css, width=8.0 if is_point else 22.0))
    return keys


def _legend(keys: Iterable[_Key], left: float, width: float) -> tuple[list[str], float]:
    """Return the names of what is drawn, in as many lines of text as they need, and the height of these."""
    parts, x, y = [], left, 12.0
    for key in keys:
        room = key.width + 6
        end = x + room + _LETTER * len(key.name)
        if end > width and x > left:
            x, y, end = left, y + _LEGEND, end - x + left
        if key.css.startswith("dot"):
            parts.append(f'<circle class="{key.css}" cx="{_round(x + 4)}" cy="{_round(y)}" r="3.5"/>')
        elif key.height:
            where = f'x="{_round(x)}" y="{_round(y - key.height / 2)}"'
            size = f'width="{_round(key.width)}" height="{_round(key.height)}"'
            parts.append(f'<rect class="{key.css}" {where} {size}/>')
        else:
            parts.append(_rule(key.css, (x, y), (x + key.width, y)))
        parts.append(_text("legend", (x + room, y), key.name, is_centred=True))
        x = end + 22
    return parts, y - 12.0 + _LEGEND


def _rule(css: str, start: tuple[float, float], end: tuple[float, float]) -> str:
    (x1, y1), (x2, y2) = start, end
    return f'<line class="{css}" x1="{_round(x1)}" y1="{_round(y1)}" x2="{_round(x2)}" y2="{_round(y2)}"/>'


def _text(css: str, at: tuple[float, float], text: str, anchor: str = "start", *, is_centred: bool = False) -> str:
    where = f'x="{_round(at[0])}" y="{_round(at[1])}"' + (' dy="0.32em"' if is_centred else "")
    return f'<text class="{css}" {where} text-anchor="{anchor}">{escape(text)}</text>'


def _runs(line: Series) -> list[list[tuple[float, float]]]:
    """Return the stretches of two and more finite points."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(line.x, line.y, strict=True):
        if math.isfinite(y):
            runs[-1].append((x, y))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if len(run) > 1]


def _drawable(line: Series, *, is_log: bool) -> Series:
    """Return the line with gaps where a logarithmic axis has no place for it."""
    return dataclasses.replace(line, y=[value if value > 0 else math.nan for value in line.y]) if is_log else line


def _thinned(line: Series, max_points: int = _MAX_POINTS) -> Series:
    """Return the line with at most `max_points` points, each the mean of as many neighbours."""
    size = -(-len(line.x) // max_points)
    if size <= 1 or line.intervals or not line.has_line:
        return line

    def means(values: Sequence[float]) -> list[float]:
        parts = (values[start : start + size] for start in range(0, len(values), size))
        return [math.fsum(part) / len(part) if all(map(math.isfinite, part)) else math.nan for part in parts]

    return dataclasses.replace(line, x=means(line.x), y=means(line.y))


def _round(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
