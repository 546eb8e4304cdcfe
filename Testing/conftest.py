"""What many tests search, how long they wait, and what they tell of it."""

from __future__ import annotations

import sys

import pytest

from Testing.small_scan import Scan, write_small_scan


@pytest.fixture(scope="session")
def small_scan(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    return write_small_scan(tmp_path_factory.mktemp("small_scan"))


@pytest.fixture(scope="session")
def patience() -> float:
    """By what limits of time are multiplied. They hold where nothing is drawn.

    Slicer draws every view again, perhaps without a GPU; what that takes is its own and told in the summary. There, a
    limit only tells that something hangs.
    """
    qt = sys.modules.get("qt")
    return 1.0 if qt is None or hasattr(qt, "stand_in") else 10.0


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what tests measured, also where they passed."""
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}, {name}: {value}")
