"""Charts of obedience, of false alarms, and of commands in a state."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from worldline.report.command_figures import calibration_chart, command_map_chart, obedience_chart
from worldline.report.svg import line_chart


def test_obedience_has_the_identity_and_points_with_intervals():
    chart = obedience_chart("return", [5.0, -5.0], {"model": [4.0, -3.0]}, {"model": [(3.0, 5.0), (-4.0, -2.0)]})
    identity, model = chart.series
    assert (identity.x, identity.y, identity.is_dashed) == ([-5.0, 5.0], [-5.0, 5.0], True)
    assert (model.x, model.y, model.has_line) == ([5.0, -5.0], [4.0, -3.0], False)
    assert model.intervals == [(3.0, 5.0), (-4.0, -2.0)]
    root = ET.fromstring(line_chart(chart))
    assert len([part for part in root.iter() if part.get("class") == "bar accent"]) == 2


def test_calibration_has_what_was_asked_for():
    asked, shield = calibration_chart({"s": [(0.1, 0.08, (0.06, 0.11)), (0.2, 0.25, (0.2, 0.3))]}).series
    assert (asked.x, asked.y) == ([0.0, 0.2], [0.0, 0.2])
    assert (shield.name, shield.x, shield.y) == ("s", [0.1, 0.2], [0.08, 0.25])
    assert shield.intervals == [(0.06, 0.11), (0.2, 0.3)]


def test_a_map_has_axes_shades_and_points():
    steps, returns = np.linspace(1, 101, 11), np.linspace(-50, 50, 5)
    density = np.full((11, 5), -4.0)
    density[2, 3], density[0, 0] = 0.0, -np.inf
    points = {"told": (20.0, 80.0), "projection": (20.0, 50.0)}
    chart = command_map_chart(
        "State", steps=steps, returns=returns, log_density=density, excess=density + 2, points=points
    )
    assert (chart.x_label, chart.y_label) == ("horizon (steps)", "return")
    assert chart.field.shades[2, 3] == 1.0
    assert chart.field.shades[5, 1] == pytest.approx(0.5)  # 4 of the 8 nats down
    told, projection = chart.series
    assert (told.name, told.x, told.y) == ("told (20, 80), beyond the chart", [20.0], [50.0])
    assert (projection.name, projection.x, projection.y) == ("projection", [20.0], [50.0])
    root = ET.fromstring(line_chart(chart))
    texts = list(root.itertext())
    assert {"horizon (steps)", "return", "density", "boundary of the allowed", "projection", "−40", "40"} <= set(texts)
    (path,) = [part for part in root.iter() if part.get("class") == "boundary" and part.get("d")]
    assert path.get("d").startswith("M")
