"""A report as data, and the one HTML file that it becomes: nothing in it is fetched from anywhere."""

from __future__ import annotations

import base64
import importlib.util
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

from medseg import __version__
from medseg.errors import ConfigError
from medseg.files import write_text

__all__ = [
    "NOTHING",
    "Block",
    "Chart",
    "Charts",
    "Fact",
    "Folded",
    "Page",
    "Picture",
    "Section",
    "Table",
    "Text",
    "Tone",
    "data_uri",
    "fixed",
    "p_value",
    "render_page",
    "require_report_packages",
    "with_interval",
    "write_page",
]

NOTHING = "-"
"""Stands where there is no number."""

Tone = Literal["", "note", "good", "bad"]


@dataclass(frozen=True)
class Fact:
    """One figure at the top of the page."""

    name: str
    value: str
    note: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str
    tone: Tone = ""


@dataclass(frozen=True)
class Table:
    """Rows of text.

    Attributes:
        columns: Headings.
        rows: A field for each column.
        caption: Above it.
        text_columns: Those that are aligned left and may be folded; the others are numbers.
        marked: Rows that stand out.
        note: Below it.
    """

    kind: ClassVar[str] = "table"
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    text_columns: Sequence[int] = (0,)
    marked: Sequence[int] = ()
    note: str = ""


@dataclass(frozen=True)
class Chart:
    """A drawing in two colour schemes, as data URIs.

    Attributes:
        light: For light surroundings, and paper.
        dark: For dark ones.
        alt: What it shows, for those who do not see it.
        width: In CSS pixels.
        height: In CSS pixels.
        caption: Below it.
    """

    kind: ClassVar[str] = "chart"
    light: str
    dark: str
    alt: str
    width: int
    height: int
    caption: str = ""


@dataclass(frozen=True)
class Charts:
    """Several charts side by side where there is room."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[Chart]


@dataclass(frozen=True)
class Picture:
    """A picture of voxels, as a data URI; wider than a phone, so that it can be moved sideways there."""

    kind: ClassVar[str] = "picture"
    source: str
    alt: str
    width: int
    height: int
    caption: str


@dataclass(frozen=True)
class Folded:
    """Blocks that are shown when asked for."""

    kind: ClassVar[str] = "folded"
    summary: str
    blocks: Sequence[Block]


Block: TypeAlias = "Text | Table | Chart | Charts | Picture | Folded"


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A whole report. Every text in it is plain: markup in a case's name is shown, not obeyed."""

    title: str
    lead: str
    facts: Sequence[Fact] = ()
    sections: Sequence[Section] = field(default_factory=tuple)


def require_report_packages() -> None:
    """Refuse before work starts what would fail after it.

    Raises:
        ConfigError: matplotlib or jinja2 is not installed.
    """
    missing = [name for name in ("jinja2", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"reports need {' and '.join(missing)}, which is not installed",
            fix="pip install 'medseg[report]'",
        )


def render_page(page: Page) -> str:
    """The page as HTML.

    Example:
        >>> "a &lt;b&gt; c" in render_page(Page("a <b> c", ""))
        True
    """
    require_report_packages()
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("medseg.comparison"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(page=page, version=__version__).lstrip() + "\n"


def write_page(page: Page, path: str | os.PathLike[str]) -> None:
    """Write the page as one HTML file, whole or not at all."""
    write_text(render_page(page), path)


def data_uri(content: bytes, media_type: str) -> str:
    """Bytes as an address that holds them.

    Example:
        >>> data_uri(b"medseg", "text/plain")
        'data:text/plain;base64,bWVkc2Vn'
    """
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def fixed(value: float | None, digits: int = 3) -> str:
    """A number with so many digits behind the point, or what stands for none.

    Example:
        >>> fixed(0.12345), fixed(None)
        ('0.123', '-')
    """
    return NOTHING if value is None or math.isnan(value) else f"{value:.{digits}f}"


def p_value(value: float | None) -> str:
    """A p-value; a very small one is told to be, not to be 0.

    Example:
        >>> p_value(0.03125), p_value(1e-9)
        ('0.0312', '< 0.0001')
    """
    if value is not None and value < 1e-4:
        return "< 0.0001"
    return fixed(value, 4)


def with_interval(value: float | None, interval: Sequence[float] | None, digits: int = 3) -> str:
    """A number and, if there is one, its interval.

    Example:
        >>> with_interval(0.5, [0.25, 0.75], 2)
        '0.50 [0.25, 0.75]'
    """
    if interval is None or value is None:
        return fixed(value, digits)
    return f"{fixed(value, digits)} [{fixed(interval[0], digits)}, {fixed(interval[1], digits)}]"
