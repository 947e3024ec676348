"""The pages that people read, taken apart: commands, code, settings and links."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, CONTRIBUTING, ROOT / "lora_whisper/quickstart/README.md", *DOCS]
CONF = sorted((ROOT / "conf").rglob("*.yaml"))

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)|(?<!`)`([^`]+?)`(?!`)", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One block of code; `language` is "" where the page names none."""

    page: Path
    language: str
    text: str

    def __str__(self) -> str:
        """What a test is called by."""
        return f"{name_of(self.page)}: {self.text.splitlines()[0]}"


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose_of(page: Path) -> str:
    """The page without its blocks of code."""
    return FENCE.sub("", text_of(page))


def blocks(*languages: str) -> list[Block]:
    """Of all pages, in their order."""
    return [
        Block(page, language, text)
        for page in PAGES
        for language, text in FENCE.findall(text_of(page))
        if language in languages
    ]


def commands() -> list[str]:
    """What blocks of console tell people to type, each command once."""
    typed = [one for block in blocks("console") for one in typed_in(block.text)]
    return list(dict.fromkeys(typed))


def commands_of_conf() -> list[str]:
    """What the heads of the files in conf/ tell people to type, each once."""
    joined = (re.sub(r" *\\\n# *", " ", text_of(path)) for path in CONF)
    typed = [one for head in joined for one in re.findall(r"^#   (lora-whisper .+)$", head, re.M)]
    return list(dict.fromkeys(typed))


def comments_of(path: Path) -> list[str]:
    return re.findall(r"#\s(.*)", text_of(path))


def typed_in(console: str) -> list[str]:
    """The lines behind `$ `, with those that a backslash joins to them."""
    joined = re.sub(r" *\\\n\s*", " ", console)
    return re.findall(r"^\$ (.+)$", joined, re.MULTILINE)


def spans(page: Path) -> list[str]:
    """What stands between backticks in the text, on one line each."""
    found = (one or other for one, other in SPAN.findall(prose_of(page)))
    return [" ".join(span.split()) for span in found]


def links(page: Path) -> list[str]:
    return LINK.findall(prose_of(page))


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    plain = (re.sub(r"[^\w\- ]", "", title.lower()) for title in HEADING.findall(prose_of(page)))
    return {title.strip().replace(" ", "-") for title in plain}


def words_of(command: str) -> tuple[dict[str, str], list[str]]:
    """The environment that is set in front of a command, and its words without comments."""
    words = shlex.split(command, comments=True)
    environment = {}
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    return environment, words
