"""Reads a page back as a reader sees it: strictly parsed, with its tables, numbers and figures by name."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

import html5lib

from fedsim.report import write_report

GAP = "\N{NARROW NO-BREAK SPACE}"
SCALES = {"": 1, "%": 0.01, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "s": 1, "ms": 1e-3, "min": 60, "h": 3600}


@dataclass(frozen=True, kw_only=True)
class Page:
    """A parsed page; tags have no namespace."""

    source: str
    root: Element

    @property
    def text(self) -> str:
        """All the words of the body."""
        body = self.root.find("body")
        assert body is not None
        return text_of(body)

    def find(self, path: str) -> Element:
        element = self.root.find(path)
        assert element is not None, path
        return element

    def table(self, caption: str) -> dict[str, list[Element]]:
        """The cells of the table with this caption, by the first cell of their row."""
        tables = [table for table in self.root.iter("table") if text_of(table.find("caption")) == caption]
        assert len(tables) == 1, caption
        return {text_of(row[0]): list(row)[1:] for row in tables[0].findall("tbody/tr")}

    def figure(self, name: str) -> Element:
        """The svg element whose title's id starts with ``name``."""
        found = [svg for svg in self.root.iter("svg") if svg[0].attrib["id"] == f"{name}-title"]
        assert len(found) == 1, name
        return found[0]

    def sections(self) -> list[str]:
        return [text_of(heading) for heading in self.root.iter("h2")]

    def notices(self) -> list[str]:
        return [text_of(item) for item in self.root.findall(".//ul[@class='notices']/li")]


def read_page(path: Path) -> Page:
    """Parse ``path``; a page that is not valid HTML raises."""
    source = path.read_text(encoding="utf-8")
    root = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(source)
    for element in root.iter():
        if isinstance(element.tag, str):
            element.tag = element.tag.rpartition("}")[2]
    return Page(source=source, root=root)


def report(folder: Path) -> Page:
    """Write the report of the run in ``folder`` and read it."""
    return read_page(write_report(folder))


def text_of(element: Element | None) -> str:
    assert element is not None
    return " ".join("".join(element.itertext()).split())


def value_of(element: Element) -> float | str:
    """The exact number that a cell keeps, or its words where it holds none."""
    data = element if element.tag == "data" else element.find("data")
    return text_of(element) if data is None else float(data.attrib["value"])


def values_of(elements: list[Element]) -> list[float | str]:
    return [value_of(element) for element in elements]


def number_in(text: str) -> tuple[float, float]:
    """The number that ``text`` says, units applied, and half of its last digit: how far off a rounding may be."""
    total, slack = 0.0, 0.0
    for digits, unit in _parts(text):
        mantissa, _, exponent = digits.partition("e")
        decimals = len(mantissa.partition(".")[2]) - int(exponent or 0)
        total += float(digits) * SCALES[unit]
        slack = 0.5 * 10.0**-decimals * SCALES[unit]
    return total, slack


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """The numbers with their units that make up a quantity, such as 4 min 8 s."""
    pattern = re.compile(r"(-?[\d,.]+(?:e[+-]?\d+)?)\s*(%|kB|MB|GB|B|min|ms|s|h|)(?:\s+|$)")
    position = 0
    while position < len(text):
        match = pattern.match(text, position)
        assert match, text
        yield match[1].replace(",", ""), match[2]
        position = match.end()


def assert_self_contained(page: Page) -> None:
    """No element fetches anything: references are to the page's own ids, or carry their data."""
    for element in page.root.iter():
        assert element.tag not in {"script", "link", "iframe", "object", "embed", "base", "a"}
        for key, value in element.attrib.items():
            name = key.rpartition("}")[2]
            assert not name.startswith("on")
            assert name not in {"src", "srcset", "data", "action", "poster"}
            if name == "href":
                assert value.startswith(("#", "data:image/png;base64,"))
            assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", value))
    style = page.find(".//style").text or ""
    assert "@import" not in style
    assert "url(" not in style
