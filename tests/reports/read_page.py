"""A page as a browser reads it, for tests of what is written in HTML."""

from __future__ import annotations

from html.parser import HTMLParser

NEVER_CLOSED = {"meta", "path", "use", "rect", "input", "br", "wbr"}
EDITS = ("mark", "ins", "del")


class Page(HTMLParser):
    """The page as a browser reads it: definitions, edits, and whatever would be fetched or run."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.definitions: list[tuple[str, str, dict[str, str | None]]] = []  # dt, dd, attributes
        self.edits: list[int] = []  # words in marks, of each definition
        self.foreign: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.bare_tables = 0  # that have no box of their own to scroll in
        self._boxes: list[str | None] = []  # classes of what is open
        self._term = ""
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        assert not self.bare_tables, "a table is not in a box that scrolls: cut on a phone"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        inside = (given.get("src") or "").startswith("data:audio/")
        fetched = [name for name in ("src", "srcset", "onload") if name in given]
        self.foreign += [f"{tag}.{name}" for name in fetched if not inside]
        self.foreign += [tag] * (tag in ("script", "link", "iframe", "object", "base"))
        links = [given.get("href"), given.get("xlink:href")]
        self.foreign += [link for link in links if link and not link.startswith("#")]
        if tag == "table":
            self.bare_tables += self._boxes[-1:] != ["wide"]
        if tag not in NEVER_CLOSED:
            self.open.append(tag)
            self._boxes.append(given.get("class"))
        self.tags.append((tag, given))
        if tag == "dt":
            self._term = ""
        if tag == "dd":
            self.definitions.append((self._term, "", given))
            self.edits.append(0)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in NEVER_CLOSED:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in NEVER_CLOSED:
            assert self.open.pop() == tag, f"</{tag}> closes nothing"
            self._boxes.pop()

    def handle_data(self, data: str) -> None:
        self.text += data
        if "dt" in self.open:
            self._term += data
        elif "dd" in self.open:
            term, text, given = self.definitions[-1]
            self.definitions[-1] = (term, text + data, given)
            if self.open[-1] in EDITS:
                self.edits[-1] += len(data.split())

    def find(self, term: str) -> list[str]:
        return [text for found, text, _ in self.definitions if found == term]
