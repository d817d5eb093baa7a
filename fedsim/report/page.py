"""Writes the pages: ``report.html`` for a run, ``partition.html`` for a partition before training."""

from pathlib import Path

from fedsim.files import write_atomically
from fedsim.report import headline, provenance, sections
from fedsim.report.folder import read_clients, read_run_folder
from fedsim.report.layout import Section
from fedsim.report.numbers import Cell
from fedsim.report.poisoning import poisoning
from fedsim.report.privacy import privacy, uncovered

_TEMPLATES = Path(__file__).parent


def write_report(folder: Path) -> Path:
    """Read the run in ``folder`` and write its ``report.html`` there; returns the page's path.

    The page is one file without references to anything outside it, and depends on nothing but the run's files. An
    unfinished run gets a page that says so. Raises ``ValueError`` naming the file where ``folder`` is no run folder
    or a file in it cannot be read.
    """
    run = read_run_folder(folder)
    shown = (
        sections.learning(run),
        privacy(run),
        uncovered(run),
        poisoning(run),
        sections.clients(run),
        sections.labels(run.clients),
        sections.bytes_moved(run),
        sections.time_spent(run),
        sections.comparison(run),
        provenance.model(run),
        provenance.settings(run),
        provenance.environment(run),
        provenance.command(run),
    )
    return write_page(
        folder / "report.html",
        title=headline.page_title(run),
        lead=headline.result_sentence(run),
        notices=headline.notices(run),
        figures=headline.key_figures(run),
        sections=tuple(section for section in shown if section is not None),
    )


def write_partition_page(folder: Path) -> Path:
    """Show the partition in ``folder``'s ``clients.npz`` as ``partition.html`` there; returns the page's path.

    Of ``clients.npz`` it needs ``label_counts`` (``int64[clients, labels]``) only. Raises ``ValueError`` where that
    is missing.
    """
    arrays = read_clients(folder)
    if "label_counts" not in arrays:
        raise ValueError(f"{folder / 'clients.npz'} must hold label_counts, got {', '.join(arrays) or 'nothing'}")
    return write_page(folder / "partition.html", title="Partition", sections=(sections.labels(arrays),))


def write_page(
    path: Path,
    *,
    title: str,
    sections: tuple[Section, ...],
    lead: tuple[Cell, ...] = (),
    notices: tuple[str, ...] = (),
    figures: tuple[tuple[str, Cell], ...] = (),
) -> Path:
    """One page of ``sections`` in the style of all reports, in one file; returns ``path``."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = templates.get_template("report.html.j2").render(
        title=title, lead=lead, notices=notices, figures=figures, sections=sections
    )
    write_atomically(path, page.encode())
    return path
