"""The page is well-formed, self-contained and escapes what it is given."""

import dataclasses
import html.parser
import re

import numpy as np
import pytest

from worldline.errors import FileError
from worldline.report.figures import learning_curves
from worldline.report.page import Figure, Page, Picture, Section, Table, Tile, render, write
from worldline.report.svg import LineChart, Series

VOID = {"meta", "br", "hr", "img", "link", "input"}
CHART = LineChart(title="Loss", series=[Series(name="loss", x=[1, 2], y=[2, 1])], width=260)
WIDE = dataclasses.replace(CHART, width=640)
PAGE = Page(
    title="A <b>run</b> & more",
    summary='It said "hello".',
    tiles=[Tile(label="Loss", value="1.5", note="step 2", is_main=True), Tile(label="Steps", value="2")],
    sections=[
        Section(
            title="Curves",
            text="Two of them.",
            figures=[Figure(charts=[CHART, CHART], caption="Both."), Figure(charts=[WIDE])],
        ),
        Section(
            title="Settings",
            tables=[
                Table(title="Open", header=("a", "b"), rows=[("<script>", "2")]),
                Table(title="Folded", header=("c",), rows=[("3",)], is_folded=True),
            ],
        ),
    ],
    footer="The end.",
)


class Balance(html.parser.HTMLParser):
    """Fails where a tag closes that is not open."""

    def __init__(self):
        super().__init__()
        self.stack, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


def assert_is_sound(text):
    """The page is well-formed and asks for nothing outside itself."""
    parser = Balance()
    parser.feed(text)
    parser.close()
    assert parser.stack == []
    assert not {"script", "link", "img", "iframe", "object"} & set(parser.tags)
    assert not re.search(r"https?:|//[a-z]|url\(|@import|src=|href=", text)
    return parser.tags


def test_page_is_well_formed_and_self_contained():
    tags = assert_is_sound(render(PAGE))
    assert tags.count("svg") == 4
    assert tags.count("table") == 2
    assert tags.count("details") == 1


def test_a_wide_chart_is_also_drawn_for_narrow_screens():
    widths = re.findall(r'viewBox="0 0 (\d+) ', render(PAGE))
    assert widths == ["260", "260", "640", "340"]


def test_text_is_escaped():
    text = render(PAGE)
    assert "A &lt;b&gt;run&lt;/b&gt; &amp; more" in text
    assert "&lt;script&gt;" in text


def test_dark_and_light_are_both_there():
    text = render(PAGE)
    assert "prefers-color-scheme: dark" in text
    names = set(re.findall(r"var\((--[\w-]+)\)", text)) - {"--c"}
    light, dark = text.split("prefers-color-scheme", 1)
    for name in names:
        assert f"{name}:" in light
        assert f"{name}:" in dark


def test_every_class_of_a_chart_has_a_style():
    text = render(PAGE)
    css = text[: text.index("</style>")]
    used = {name for group in re.findall(r'class="([^"]+)"', text) for name in group.split()}
    for name in used - {"panel"}:
        assert f".{name}" in css, name


def test_write_and_a_folder_that_cannot_be_written(tmp_path):
    path = write(PAGE, tmp_path / "deep" / "report.html")
    assert path.read_text(encoding="utf-8") == render(PAGE)
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="may write to"):
        write(PAGE, tmp_path / "file" / "report.html")


def test_hostile_metric_names_stay_text():
    figure = learning_curves([{"step": 1, "loss": 1.0, "<img src=x>": 2.0}, {"step": 2, "loss": 0.5}])
    page = Page(title="t", summary="s", tiles=[], sections=[Section(title="c", figures=[figure])])
    assert "<img" not in render(page)


def test_a_folded_section_shows_its_heading_only():
    chart = LineChart(title="speed", series=[Series(name="speed", x=[1, 2], y=[3.0, 4.0])])
    sections = [Section(title="Machine", figures=[Figure(charts=[chart])], is_folded=True), Section(title="Open")]
    text = render(Page(title="t", summary="", tiles=[], sections=sections))
    assert re.search(r"<details>\s*<summary><h2>Machine</h2></summary>.*<svg.*</details>", text, re.DOTALL)
    assert "<h2>Open</h2>" in text
    assert text.count("<details>") == 1


def test_pictures_are_inside_the_page():
    picture = Picture(image=np.zeros((2, 3, 3), np.uint8), caption='A "dark" <one>.')
    text = render(Page(title="t", summary="", sections=[Section(title="s", pictures=[picture])]))
    assert f'src="{picture.address}"' in text
    assert text.count("A &#34;dark&#34; &lt;one&gt;.") == 2  # for those who see it, and for those who do not
    assert set(re.findall(r'(?:src|href)="([^,]*)', text)) == {"data:image/png;base64"}
