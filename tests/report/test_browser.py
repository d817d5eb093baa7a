"""The page in a real browser without a network: it loads clean, every figure shows, every word can be read."""

from pathlib import Path

import numpy as np
import pytest

from fedsim.report import write_partition_page, write_report
from tests.report.browser import open_page
from tests.report.synthetic import make_private, write_run

pytestmark = pytest.mark.browser

FIGURES = """[...document.querySelectorAll('figure svg')].map(svg => {
  const box = svg.getBoundingClientRect();
  return [box.width, box.height];
})"""

WORDS_OUTSIDE = """[...document.querySelectorAll('svg text')].filter(text => {
  const box = text.getBoundingClientRect(), frame = text.ownerSVGElement.getBoundingClientRect();
  return box.left < frame.left - 0.5 || box.right > frame.right + 0.5
      || box.top < frame.top - 0.5 || box.bottom > frame.bottom + 0.5;
}).map(text => text.textContent)"""

WORDS_TOUCHING = """[...document.querySelectorAll('svg')].flatMap(svg => {
  const texts = [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
  return texts.flatMap(([words, a], i) => texts.slice(i + 1).filter(([_, b]) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 0.35 * Math.min(a.height, b.height)
  ).map(([other]) => words + ' | ' + other));
})"""

# WCAG 2: (lighter + 0.05) / (darker + 0.05) of the relative luminances of a text and what lies behind it.
FAINT_WORDS = """(() => {
  const rgb = colour => colour.match(/[\\d.]+/g).map(Number);
  const luminance = colour => rgb(colour).slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    const colour = getComputedStyle(element).backgroundColor, parts = rgb(colour);
    return parts.length < 4 || parts[3] > 0 ? colour : behind(element.parentElement);
  };
  const texts = [...document.body.querySelectorAll('*')].filter(element =>
    !['title', 'desc', 'STYLE'].includes(element.tagName) &&
    [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim()));
  return texts.map(element => {
    const style = getComputedStyle(element);
    const pair = [luminance(element.tagName === 'text' ? style.fill : style.color), luminance(behind(element))];
    return [(Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05), element.textContent.trim().slice(0, 40)];
  });
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_the_report_shows(finished: Path, tmp_path: Path, scheme: str, width: int) -> None:
    with open_page(finished / "report.html", tmp_path, width=width, scheme=scheme) as tab:
        assert tab.happened("Runtime.exceptionThrown") == []
        assert tab.happened("Runtime.consoleAPICalled") == []
        assert tab.happened("Log.entryAdded") == []
        assert tab.happened("Network.loadingFailed") == []
        addresses = [event["request"]["url"] for event in tab.happened("Network.requestWillBeSent")]
        page = (finished / "report.html").resolve().as_uri()
        assert [address for address in addresses if not address.startswith("data:")] == [page]
        figures = tab.evaluate(FIGURES)
        assert len(figures) == 8
        assert all(box_width > 300 and box_height > 150 for box_width, box_height in figures)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.evaluate(WORDS_OUTSIDE) == []
        assert tab.evaluate(WORDS_TOUCHING) == []
        contrasts = tab.evaluate(FAINT_WORDS)
        assert len(contrasts) > 300
        assert [pair for pair in contrasts if pair[0] < 4.5] == []
        background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") == (scheme == "light")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_a_private_runs_report_shows(tmp_path: Path, scheme: str, width: int) -> None:
    page = write_report(make_private(write_run(tmp_path / "run", cohort=40)))
    with open_page(page, tmp_path / "profile", width=width, scheme=scheme) as tab:
        assert tab.happened("Log.entryAdded") == []
        assert len(tab.evaluate(FIGURES)) == 12
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.evaluate(WORDS_OUTSIDE) == []
        assert tab.evaluate(WORDS_TOUCHING) == []
        assert [pair for pair in tab.evaluate(FAINT_WORDS) if pair[0] < 4.5] == []


def test_the_partition_page_shows(tmp_path: Path) -> None:
    np.savez(tmp_path / "clients.npz", label_counts=np.arange(1, 31).reshape(10, 3))
    with open_page(write_partition_page(tmp_path), tmp_path / "profile", width=1000, scheme="light") as tab:
        assert tab.happened("Log.entryAdded") == []
        [[width, height]] = tab.evaluate(FIGURES)
        assert width > 500
        assert height > 150
