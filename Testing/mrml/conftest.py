"""A real MRML scene for tests: Slicer's own where they run in Slicer, else one built from slicer-core."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from Testing.mrml_scene import start_scene


@pytest.fixture(scope="session")
def mrml() -> Iterator[Any]:
    """The `slicer` package with `slicer.mrmlScene` and the module logics behind it."""
    import slicer

    if not hasattr(slicer, "app"):
        start_scene()
    yield slicer


@pytest.fixture
def scene(mrml: Any) -> Any:
    """The scene, empty but for its singletons."""
    mrml.mrmlScene.Clear(False)
    return mrml.mrmlScene
