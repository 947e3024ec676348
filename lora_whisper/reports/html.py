"""HTML pages that need nothing but themselves, no network above all: their frame and colours."""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_whisper.reports.tables import escaped

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")
# Each colour on light and on dark ground. Charts are drawn in the light ones, and get the names in
# the end, so that they follow the page.
PALETTE = {
    "page": ("#ffffff", "#14191e"),
    "ink": ("#1d2630", "#e4e9ee"),
    "soft": ("#5c6975", "#9ba8b4"),
    "line": ("#dde3e8", "#323b44"),
    "edge": ("#b4bdc5", "#000000"),
    "tint": ("#f5f7f9", "#1c2329"),
    "bad": ("#b5524f", "#e58f8a"),
    "blue": ("#2b6a99", "#6db0e2"),
    "amber": ("#e09f3e", "#e8b15c"),
    "violet": ("#8f5fa8", "#bd93d4"),
    "green": ("#5b8e55", "#8dc086"),
    "grey": ("#777777", "#a0a0a0"),
}
LONGEST_PIECE = 24  # letters of a name that may fill a phone's table; a longer one is broken


def render(template: str, script: str = "", **values: Any) -> str:
    """A file of `templates/` with these values. Whatever comes from the data is escaped in HTML.

    `page.html.j2` is the frame of all pages; `marks.html.j2` shows where a hypothesis leaves its
    reference; `parts.html.j2` has what several pages have. The filter `name` is for what a row of
    a table is called.

    Args:
        script: the file with the only script that the page lets run.
    """
    written = (TEMPLATES / script).read_text(encoding="utf-8") if script else ""
    digest = base64.b64encode(hashlib.sha256(written.encode()).digest()).decode()
    page = environment().get_template(template)
    return page.render(palette=PALETTE, script=written, script_hash=digest, **values)


@functools.cache  # a sweep writes the same page for each of its runs
def environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=lambda name: name is None or not name.endswith(".md.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.filters |= {"name": unbroken, "escaped": escaped, "quoted": shlex.quote}
    return made


def unbroken(name: str) -> Markup:
    """A name whose lines end at spaces and after `_`, `/` and the like, never in a word of it."""
    from markupsafe import Markup

    pieces = re.findall(r"[^\s_/,;=]*[\s_/,;=]*", name)
    kept = '<span class="piece">{}</span>'
    return Markup(
        "<wbr>".join(
            (kept if len(piece) <= LONGEST_PIECE else "{}").format(html.escape(piece))
            for piece in pieces
            if piece
        )
    )
