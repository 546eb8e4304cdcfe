"""300 candidates: every key answers within 50 ms, the threshold slider within 100 ms.

So it is while nothing is drawn; in Slicer it takes longer, and the limits are wider.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

from CMBDetectorLib.report import write_result
from CMBDetectorLib.result import Result
from Testing.synthetic_result import synthetic_result

COUNT = 300
KEY_S, SLIDER_S = 0.050, 0.100


@pytest.fixture(scope="module")
def result_of_300(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    random = np.random.default_rng(3)
    balls = tuple(
        ((*(random.integers(25, 70, 2).tolist()), int(random.integers(5, 19))), 3.0, 0.4 + 0.59 * n / COUNT, 9, "")
        for n in range(COUNT)
    )
    result = synthetic_result(balls=balls)
    return result, write_result(result, tmp_path_factory.mktemp("many") / "result", with_images=True)


@pytest.fixture
def many(panel: Any, volumes: Any, wait: Any, result_of_300: tuple[Result, Path]) -> Any:
    """A case with 300 candidates to review."""
    from CMBDetectorLib.scene.case import show_result

    result, folder = result_of_300
    swi, phase = volumes(result)
    show_result(folder, swi, phase)
    panel._parameterNode.swi = swi
    wait(lambda: panel.review.case is not None, 20)
    assert panel.ui.reviewTable.rowCount == COUNT
    return panel


def seconds(act: Callable[[], Any], application: Any) -> float:
    begun = time.perf_counter()
    act()
    application.app.processEvents()
    return time.perf_counter() - begun


def test_every_key_answers_within_50_ms(
    many: Any, shortcut: Any, application: Any, patience: float, record_property: Callable[[str, object], None]
) -> None:
    took = {}
    for key in ("N", "B", "A", "R", "U", "Z", "H", "M", "S"):
        press = shortcut(key)
        took[key] = median(seconds(press, application) for _ in range(7))
    record_property("milliseconds", {key: round(1000 * value, 1) for key, value in took.items()})
    assert max(took.values()) < KEY_S * patience, took


def test_the_slider_filters_within_100_ms(
    many: Any, application: Any, patience: float, record_property: Callable[[str, object], None]
) -> None:
    slider = many.ui.thresholdSlider
    took = []
    for value in (0.45, 0.6, 0.5, 0.9, 0.41, 0.7, 0.4):
        took.append(seconds(partial(setattr, slider, "value", value), application))
    record_property("milliseconds", [round(1000 * value, 1) for value in took])
    assert median(took) < SLIDER_S * patience
