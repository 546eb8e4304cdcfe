"""What many tests search."""

from __future__ import annotations

import pytest

from Testing.small_scan import Scan, write_small_scan


@pytest.fixture(scope="session")
def small_scan(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    return write_small_scan(tmp_path_factory.mktemp("small_scan"))
