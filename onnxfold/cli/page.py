"""Pages for people: one self-contained HTML file, written and escaped by the standard library."""

from collections.abc import Iterable, Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 75rem; margin: 0 auto; padding: 1rem 1.5rem 3rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
div { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: .15rem .9rem .15rem 0; text-align: left; vertical-align: top; }
th { border-bottom: 1px solid; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.mark td { background: #f8c04040; }
"""


class Page:
    """A page that grows from top to bottom. Text is text: nothing in it is taken for HTML."""

    def __init__(self, title: str) -> None:
        self._root = Element("html", lang="en")
        head = SubElement(self._root, "head")
        SubElement(head, "meta", charset="utf-8")
        SubElement(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
        SubElement(head, "title").text = title
        SubElement(head, "style").text = _STYLE
        self._body = SubElement(self._root, "body")
        SubElement(self._body, "h1").text = title

    def heading(self, text: str) -> None:
        """Begin a section."""
        SubElement(self._body, "h2").text = text

    def paragraph(self, text: str) -> None:
        """Add a paragraph."""
        SubElement(self._body, "p").text = text

    def items(self, texts: Iterable[str]) -> None:
        """Add a list; nothing if it is empty."""
        shown = list(texts)
        if shown:
            parent = SubElement(self._body, "ul")
            for text in shown:
                SubElement(parent, "li").text = text

    def table(
        self,
        name: str,
        headings: Sequence[str],
        rows: Iterable[Sequence[str]],
        *,
        numbers: frozenset[str] = frozenset(),
        marked: frozenset[int] = frozenset(),
    ) -> None:
        """Add a table.

        Args:
            name: Its `id`, for links and for programs.
            headings: Of the columns.
            rows: As many texts as there are headings, in each.
            numbers: The headings of columns of numbers, which stand to the right.
            marked: The rows that stand out.
        """
        parent = SubElement(SubElement(self._body, "div"), "table", id=name)
        head = SubElement(SubElement(parent, "thead"), "tr")
        sides = [{"class": "n"} if heading in numbers else {} for heading in headings]
        for heading, side in zip(headings, sides, strict=True):
            SubElement(head, "th", side).text = heading
        body = SubElement(parent, "tbody")
        for index, row in enumerate(rows):
            line = SubElement(body, "tr", {"class": "mark"} if index in marked else {})
            for text, side in zip(row, sides, strict=True):
                SubElement(line, "td", side).text = text

    def to_bytes(self) -> bytes:
        """The file."""
        ElementTree.indent(self._root)
        text = ElementTree.tostring(self._root, encoding="unicode", method="html")
        # A name in a model may hold what no file can: half of a surrogate pair, say.
        return f"<!DOCTYPE html>\n{text}\n".encode("utf-8", errors="replace")
