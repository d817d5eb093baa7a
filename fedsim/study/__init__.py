"""Studies: a grid of configs times seeds, run in parallel and resumable, and the table and page that come of it."""

from fedsim.study.plan import Cell, Study, read_study
from fedsim.study.running import run_study

__all__ = ["Cell", "Study", "read_study", "run_study"]
