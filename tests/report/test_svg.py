"""The lines of a chart are where the numbers say."""

import math
import xml.etree.ElementTree as ET

import pytest

from worldline.report.svg import LineChart, Series, line_chart, sparkline, standalone

# Without labels and legend the plot spans x from 52 to 640 - 14 = 626 and y from 320 - 24 = 296 up to 10.
LEFT, RIGHT, BOTTOM, TOP = 52.0, 626.0, 296.0, 10.0


def draw(*series, **settings):
    return ET.fromstring(line_chart(LineChart(title="A < B & C", series=series, **settings)))


def of_class(root, tag, name):
    return [element for element in root.iter(tag) if name in element.get("class", "").split()]


def points(element):
    return [tuple(map(float, pair.split(","))) for pair in element.get("points").split()]


def test_points_are_where_the_numbers_say():
    root = draw(Series(name="a", x=[0, 5, 10], y=[0, 100, 50]))
    (line,) = of_class(root, "polyline", "line")
    middle = (LEFT + RIGHT) / 2
    assert points(line) == [(LEFT, BOTTOM), (middle, TOP), (RIGHT, (BOTTOM + TOP) / 2)]


def test_log_scale():
    root = draw(Series(name="a", x=[0, 1, 2], y=[0.001, 0.1, 10.0]), is_log=True)
    (line,) = of_class(root, "polyline", "line")
    assert [y for _, y in points(line)] == pytest.approx([BOTTOM, (BOTTOM + TOP) / 2, TOP])


def test_numbers_without_a_place_leave_gaps():
    y = [1.0, 2.0, math.nan, 3.0, 4.0, math.inf, 5.0]
    root = draw(Series(name="a", x=list(range(7)), y=y))
    assert [len(points(line)) for line in of_class(root, "polyline", "line")] == [2, 2]
    logarithmic = draw(Series(name="a", x=[0, 1, 2, 3], y=[1.0, 2.0, 0.0, -1.0]), is_log=True)
    assert [len(points(line)) for line in of_class(logarithmic, "polyline", "line")] == [2]


def test_a_single_point_is_a_dot_and_no_point_says_so():
    root = draw(Series(name="a", x=[3], y=[4.0]))
    assert len(of_class(root, "circle", "dot")) == 1
    empty = draw(Series(name="a", x=[], y=[]))
    assert "no data" in "".join(empty.itertext())


def test_legend_only_where_lines_must_be_told_apart():
    one = Series(name="alpha", x=[0, 1], y=[0, 1])
    two = Series(name="beta", x=[0, 1], y=[1, 0], color="muted", is_dashed=True)
    assert of_class(draw(one), "text", "legend") == []
    root = draw(one, two)
    assert [text.text for text in of_class(root, "text", "legend")] == ["alpha", "beta"]
    assert len(of_class(root, "polyline", "dashed")) == 1
    heights = [text.get("y") for text in of_class(root, "text", "legend")]
    assert heights[0] == heights[1]


def test_a_legend_that_is_too_long_takes_two_lines():
    lines = [Series(name="a long name " * 2, x=[0, 1], y=[0, 1]), Series(name="another", x=[0, 1], y=[1, 0])]
    root = draw(*lines, width=260)
    first, second = of_class(root, "text", "legend")
    assert (first.get("x"), float(second.get("y")) - float(first.get("y"))) == (second.get("x"), 24)
    (line, _) = of_class(root, "polyline", "line")
    assert min(y for _, y in points(line)) == TOP + 48


def test_title_and_labels_are_escaped_text():
    root = draw(Series(name="<a>", x=[0, 1], y=[0, 1]), x_label="x & y", y_label="y < z", marker=0.5)
    texts = list(root.itertext())
    assert root.get("aria-label") == "A < B & C"
    assert {"A < B & C", "x & y", "y < z"} <= set(texts)
    assert "<a> at 1: 1" in texts
    (marker,) = of_class(root, "line", "marker")
    left, right = (float(of_class(root, "line", "grid")[0].get(name)) for name in ("x1", "x2"))
    assert float(marker.get("x1")) == pytest.approx((left + right) / 2)


def test_long_lines_are_thinned_to_means():
    root = draw(Series(name="a", x=list(range(1000)), y=[0.0, 2.0, 1.0, 1.0] * 250))
    (line,) = of_class(root, "polyline", "line")
    assert len(points(line)) == 334  # of three points each
    assert of_class(root, "circle", "hover") == []


def test_short_lines_tell_their_values():
    root = draw(Series(name="a", x=[1, 2], y=[3.5, 1500]))
    titles = [circle.find("title").text for circle in of_class(root, "circle", "hover")]
    assert titles == ["a at 1: 3.5", "a at 2: 1,500"]


def test_lengths_must_agree():
    with pytest.raises(AssertionError, match="lengths"):
        Series(name="a", x=[1, 2], y=[1])


def test_a_sparkline_goes_from_its_lowest_to_its_highest_value():
    text = sparkline(Series(name="a<b", x=[0, 1, 2], y=[5.0, 1.0, 3.0]), width=102, height=24)
    assert 'points="2,2 51,22 100,12"' in text
    assert 'aria-label="a&lt;b"' in text


@pytest.mark.parametrize(
    ("y", "shape"), [([3.0, 3.0], "2,14 118,14"), ([1.0, math.nan], "<circle"), ([math.nan, math.inf], "")]
)
def test_a_sparkline_of_little(y, shape):
    text = sparkline(Series(name="loss", x=[0, 1], y=y))
    assert shape in text
    assert bool(text) == bool(shape)
    assert "nan" not in text


def test_a_sparkline_of_much_has_a_point_every_other_pixel():
    text = sparkline(Series(name="loss", x=range(10_000), y=range(10_000)), width=80)
    assert text.count(",") == 40


def test_points_with_intervals():
    intervals = [(0.0, 4.0), (4.0, 4.0), (-math.inf, 10.0)]  # 0 and 10 are the ends of the axis, then
    root = draw(Series(name="a", x=[0, 5, 10], y=[2.0, 4.0, 6.0], intervals=intervals))
    found = [[float(bar.get(name)) for name in ("x1", "y1", "y2")] for bar in of_class(root, "line", "bar")]
    four = pytest.approx(BOTTOM + (TOP - BOTTOM) * 0.4)
    assert found == [[LEFT, BOTTOM, four], [(LEFT + RIGHT) / 2, four, four]]


def test_points_without_a_line():
    both = [Series(name="a", x=[3, 0, 1], y=[1, 2, 3], has_line=False), Series(name="b", x=[0, 3], y=[1, 3])]
    root = draw(*both)
    assert len(of_class(root, "polyline", "line")) == 1
    assert len(of_class(root, "circle", "dot")) == 3 + 1  # and one in the legend
    with pytest.raises(AssertionError, match="1 intervals of 2"):
        Series(name="a", x=[1, 2], y=[1, 2], intervals=[(0, 1)])


def test_a_chart_by_itself_brings_its_styles():
    root = ET.fromstring(standalone(line_chart(LineChart(title="t", series=[Series(name="a", x=[0, 1], y=[0, 1])]))))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    style = root.find("{http://www.w3.org/2000/svg}style").text
    for css in (".line", ".grid", ".accent", ".bar", ".boundary", ".shade"):
        assert css in style
