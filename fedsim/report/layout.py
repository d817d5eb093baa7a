"""What a page is made of: sections that hold pictures, tables and lines of text."""

from dataclasses import dataclass

from fedsim.report.drawing import Picture
from fedsim.report.numbers import NOTHING, Cell, Number


@dataclass(frozen=True, kw_only=True)
class Table:
    """``rows`` under ``columns``; the first cell of a row names it. Without columns it is a list of facts.

    A ``wide`` table takes the page's whole width, a ``folded`` one opens on a click.
    """

    caption: str
    rows: tuple[tuple[Cell, ...], ...]
    columns: tuple[str, ...] = ()
    wide: bool = False
    folded: bool = False

    def alignment(self, column: int) -> str:
        """``number`` for a column of numbers, which stand to the right, ``words`` for any other."""
        cells = (row[column] for row in self.rows)
        return "number" if all(isinstance(cell, Number) or cell == NOTHING for cell in cells) else "words"


@dataclass(frozen=True, kw_only=True)
class Section:
    """A ``heading`` and what stands under it, in this order; ``points`` are a list, ``command`` a line for a shell."""

    name: str
    heading: str
    text: tuple[Cell, ...] = ()
    points: tuple[str, ...] = ()
    command: str | None = None
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()

    @property
    def arrangement(self) -> str:
        """``columns`` for many small tables, filled one after another; ``blocks`` side by side for all else."""
        return "columns" if len(self.tables) > 1 and not self.pictures else "blocks"
