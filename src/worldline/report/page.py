"""The page: what it says, in what order, and how it becomes one HTML file that needs nothing else."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import os
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from worldline.episode import Array
from worldline.errors import FileError
from worldline.report.png import data_address, encode_png
from worldline.report.svg import LineChart, chart_style, line_chart

_NARROW = 340  # pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tile:
    """A number that the reader shall see first."""

    label: str
    value: str
    note: str = ""
    is_main: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """One chart, or several small ones, each under its own title."""

    charts: Sequence[LineChart]
    caption: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """An image, and what it shows in words."""

    image: Array  # [H, W, 3] uint8
    caption: str

    @property
    def address(self) -> str:
        """The image as an address that holds it."""
        return data_address(encode_png(self.image))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text; `is_folded` hides them behind the title until they are asked for."""

    title: str
    rows: Sequence[Sequence[str]]
    header: Sequence[str] = ()
    is_folded: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A heading, a few sentences, figures, pictures, tables; `is_folded` hides all but the heading until asked."""

    title: str
    text: str = ""
    figures: Sequence[Figure] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    is_folded: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Link:
    """Another page of those that `worldline view` serves."""

    label: str
    href: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
    """Everything that a report says, or a page that is served; one that `is_live` asks for its newest self."""

    title: str
    summary: str
    tiles: Sequence[Tile] = ()
    sections: Sequence[Section] = ()
    footer: str = ""
    links: Sequence[Link] = ()
    is_live: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexRow:
    """A line of the list of runs: text as it is shown, and where it leads."""

    name: str  # in addresses
    label: str  # on the page
    href: str
    what: str  # model and data
    is_run: bool = True  # it has curves, which can be compared; otherwise a report at most
    status: str = ""  # running, finished or stopped
    steps: str = ""
    progress: float | None = None  # [0, 1]
    loss: str = ""
    score: str = ""
    curve: str = ""  # SVG, the one text that is not escaped
    changed: str = ""
    report_href: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Index:
    """The list of runs."""

    title: str
    summary: str
    rows: Sequence[IndexRow]
    footer: str = ""
    links: Sequence[Link] = ()
    is_live: bool = False


def render(page: Page | Index) -> str:
    """Return the page as HTML with its styles and charts inside, and no reference to anything outside.

    Without a script, too, unless the page is live.
    """
    name = "index.html.j2" if isinstance(page, Index) else "report.html.j2"
    template = _environment().get_template(name)
    assets = {"style": style(), "script": asset("live.js")}
    return template.render(page=page, line_chart=line_chart, narrowed=_narrowed, **assets) + "\n"


@functools.cache
def style() -> str:
    """Return the styles of every page, charts and all."""
    return chart_style() + asset("style.css")


@functools.cache
def asset(name: str) -> str:
    """Return the text of "style.css", or of "live.js", the script of pages that are live."""
    return (importlib.resources.files("worldline.report") / "templates" / name).read_text(encoding="utf-8")


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("worldline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write(page: Page, path: str | os.PathLike[str]) -> Path:
    """Render the page into the file `path` and return it.

    Raises:
        FileError: The file cannot be written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(render(page), encoding="utf-8")
    except OSError as error:
        raise FileError(f"Cannot write the report {target}: {error}. Choose a folder you may write to.") from error
    return target


def _narrowed(chart: LineChart) -> LineChart | None:
    """Return a wide chart as a telephone shows it, where it would shrink until nobody can read it."""
    return dataclasses.replace(chart, width=_NARROW, height=_NARROW * 4 // 5) if chart.width > 400 else None
