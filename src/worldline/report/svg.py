"""Line charts as inline SVG: axes, ticks, legend, bands. Colours are classes, so that the page decides on them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape, quoteattr

from worldline.report.axes import Axis, format_number, linear_axis, log_axis

_MAX_POINTS = 400  # a line has no more; neighbours are averaged
_MAX_HOVER = 60  # a line with at most this many points tells their values under the pointer
_LETTER = 6.4  # width of a letter of the legend, in pixels; the font is the reader's, so this is a guess
_TOP, _RIGHT, _BOTTOM, _LEFT = 10.0, 14.0, 42.0, 52.0  # margins
_LEGEND = 24.0  # height of the legend


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """A line: points in order of x. A y that is NaN or infinite leaves a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: str = "series-1"  # a class of the page: series-1 to series-6, or muted
    is_dashed: bool = False
    band: tuple[Sequence[float], Sequence[float]] | None = None  # lower and upper edge, as long as y

    def __post_init__(self) -> None:
        lengths = [len(self.x), len(self.y), *(len(edge) for edge in self.band or ())]
        assert len(set(lengths)) == 1, f"{self.name}: x, y and band have lengths {lengths}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LineChart:
    """What to draw. `title` is what a screen reader says; the page prints its own heading."""

    title: str
    series: Sequence[Series]
    x_label: str = ""
    y_label: str = ""
    is_log: bool = False  # y axis
    marker: tuple[float, str] | None = None  # x of a vertical line, and what it says
    width: int = 640
    height: int = 320
    has_legend: bool = True


def line_chart(chart: LineChart) -> str:
    """Return the chart as one `<svg>` element; a chart without a single finite number says so."""
    series = [_thinned(_drawable(line, is_log=chart.is_log)) for line in chart.series]
    xs = [x for line in series for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
    ys = [y for line in series for y in _all_y(line) if math.isfinite(y)]
    if not xs:
        body = [_text("tick", (chart.width / 2, chart.height / 2), "no data", "middle")]
        return _svg(chart, body)
    has_legend = chart.has_legend and len(series) > 1
    top = _TOP + (_LEGEND if has_legend else 0.0)
    bottom = chart.height - (_BOTTOM if chart.x_label else _BOTTOM - 18.0)
    left = _LEFT + (16.0 if chart.y_label else 0.0)
    small = chart.width < 400
    x_axis = linear_axis(xs, start=left, end=chart.width - _RIGHT, num_ticks=5 if small else 9, is_tight=True)
    y_axis = (
        log_axis(ys, start=bottom, end=top)
        if chart.is_log
        else linear_axis(ys, start=bottom, end=top, num_ticks=5 if small else 6)
    )
    body = [*_grid(chart, x_axis, y_axis), *(_marker(chart.marker, x_axis, y_axis) if chart.marker else ())]
    body += [part for line in series for part in _band(line, x_axis, y_axis)]
    body += [part for line in series for part in _line(line, x_axis, y_axis)]
    body += _legend(series, left) if has_legend else []
    return _svg(chart, body)


def _svg(chart: LineChart, body: Iterable[str]) -> str:
    label = quoteattr(chart.title)
    opening = f'<svg class="chart" role="img" aria-label={label} viewBox="0 0 {chart.width} {chart.height}">'
    return "\n".join([opening, f"<title>{escape(chart.title)}</title>", *body, "</svg>"])


def _grid(chart: LineChart, x_axis: Axis, y_axis: Axis) -> list[str]:
    left, right, base = x_axis.start, x_axis.end, y_axis.start
    parts = []
    for tick in y_axis.ticks:
        y = y_axis.position(tick)
        parts.append(_rule("grid", (left, y), (right, y)))
        parts.append(_text("tick", (left - 8, y), format_number(tick), "end", is_centred=True))
    parts.append(_rule("axis", (left, base), (right, base)))
    for tick in x_axis.ticks:
        x = x_axis.position(tick)
        parts.append(_rule("axis", (x, base), (x, base + 4)))
        parts.append(_text("tick", (x, base + 17), format_number(tick), "middle"))
    if chart.x_label:
        parts.append(_text("label", ((left + right) / 2, chart.height - 6), chart.x_label, "middle"))
    if chart.y_label:
        turn = f"translate(13 {_round((base + y_axis.end) / 2)}) rotate(-90)"
        parts.append(f'<text class="label" transform="{turn}" text-anchor="middle">{escape(chart.y_label)}</text>')
    return parts


def _marker(marker: tuple[float, str], x_axis: Axis, y_axis: Axis) -> list[str]:
    x, top = x_axis.position(marker[0]), y_axis.end
    return [_rule("marker", (x, y_axis.start), (x, top)), _text("tick", (x + 5, top + 10), marker[1])]


def _band(line: Series, x_axis: Axis, y_axis: Axis) -> list[str]:
    if line.band is None:
        return []
    low, high = line.band
    points = [(x, a, b) for x, a, b in zip(line.x, low, high, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if len(points) < 2:
        return []
    edge = [(x, b) for x, _, b in points] + [(x, a) for x, a, _ in reversed(points)]
    path = " ".join(f"{_round(x_axis.position(x))},{_round(y_axis.position(y))}" for x, y in edge)
    return [f'<polygon class="band {line.color}" points="{path}"/>']


def _line(line: Series, x_axis: Axis, y_axis: Axis) -> list[str]:
    dashes = " dashed" if line.is_dashed else ""
    parts = []
    points = [(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
    for run in _runs(line):
        path = " ".join(f"{_round(x_axis.position(x))},{_round(y_axis.position(y))}" for x, y in run)
        parts.append(f'<polyline class="line {line.color}{dashes}" points="{path}"/>')
    if len(points) == 1:  # a line of one point would not be seen
        x, y = points[0]
        where = f'cx="{_round(x_axis.position(x))}" cy="{_round(y_axis.position(y))}"'
        parts.append(f'<circle class="dot {line.color}" {where} r="3.5"/>')
    if len(points) <= _MAX_HOVER:
        for x, y in points:
            where = f'cx="{_round(x_axis.position(x))}" cy="{_round(y_axis.position(y))}"'
            text = escape(f"{line.name} at {format_number(x)}: {format_number(y)}")
            parts.append(f'<circle class="hover {line.color}" {where} r="5"><title>{text}</title></circle>')
    return parts


def _legend(series: Iterable[Series], left: float) -> list[str]:
    parts, x = [], left
    for line in series:
        dashes = " dashed" if line.is_dashed else ""
        parts.append(_rule(f"line {line.color}{dashes}", (x, 12), (x + 22, 12)))
        parts.append(_text("legend", (x + 28, 12), line.name, is_centred=True))
        x += 28 + _LETTER * len(line.name) + 22
    return parts


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


def _all_y(line: Series) -> list[float]:
    return [*line.y, *(value for edge in line.band or () for value in edge)]


def _drawable(line: Series, *, is_log: bool) -> Series:
    """Return the line with gaps where a logarithmic axis has no place for it."""
    if not is_log:
        return line

    def positive(values: Sequence[float]) -> list[float]:
        return [value if value > 0 else math.nan for value in values]

    band = line.band and (positive(line.band[0]), positive(line.band[1]))
    return dataclasses.replace(line, y=positive(line.y), band=band)


def _thinned(line: Series) -> Series:
    """Return the line with at most `_MAX_POINTS` points, each the mean of as many neighbours."""
    size = -(-len(line.x) // _MAX_POINTS)
    if size <= 1:
        return line

    def means(values: Sequence[float]) -> list[float]:
        parts = (values[start : start + size] for start in range(0, len(values), size))
        return [math.fsum(part) / len(part) if all(map(math.isfinite, part)) else math.nan for part in parts]

    band = line.band and (means(line.band[0]), means(line.band[1]))
    return dataclasses.replace(line, x=means(line.x), y=means(line.y), band=band)


def _round(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
