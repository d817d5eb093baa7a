"""A finished run and its page, once for all tests that only read them."""

from pathlib import Path

import pytest

from fedsim.report import write_report
from tests.report.reading import Page, read_page
from tests.report.synthetic import write_run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("finished"))
    write_report(folder)
    return folder


@pytest.fixture(scope="session")
def page(finished: Path) -> Page:
    return read_page(finished / "report.html")
