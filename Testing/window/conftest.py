"""The panel for tests: in Slicer the real one, else the same code on the stand-in. Tests cannot tell which."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def application() -> Iterator[Any]:
    """The `slicer` package of a running application that knows the module."""
    import slicer

    if hasattr(slicer, "app"):
        yield slicer
        return
    from Testing.window.stand_in import start

    start()
    yield slicer
    slicer.app.moduleManager().unload("CMBDetector")  # as Slicer does when it exits


@pytest.fixture(autouse=True)
def messages(application: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Slicer would show in a box and wait for a click."""
    shown: list[str] = []
    monkeypatch.setattr(application.util, "errorDisplay", lambda text, **_options: shown.append(text))
    return shown


@pytest.fixture
def panel(application: Any) -> Iterator[Any]:
    """The module's panel, shown, in an empty scene."""
    application.mrmlScene.Clear(False)
    application.util.selectModule("CMBDetector")
    shown = application.modules.cmbdetector.widgetRepresentation().self()
    own = shown.ui.readerEdit.text  # of whoever runs the tests in Slicer
    shown.ui.readerEdit.text = "AB"
    application.app.processEvents()
    yield shown
    application.mrmlScene.Clear(False)
    application.modules.cmbdetector.widgetRepresentation().self().ui.readerEdit.text = own
    application.app.processEvents()


@pytest.fixture
def can_search(panel: Any) -> None:
    """Skip the test where a search lacks its packages, as in a Slicer that was just installed."""
    from CMBDetectorWindow import installation

    if lacking := installation.missing():
        pytest.skip(installation.explanation(lacking))


@pytest.fixture
def wait(application: Any) -> Callable[..., None]:
    """Let the window live until something is so; fails when it is not in time."""

    def wait(is_so: Callable[[], Any], seconds: float = 5.0) -> None:
        end = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < end, f"not within {seconds} s"
            application.app.processEvents()
            time.sleep(0.005)
        application.app.processEvents()

    return wait


@pytest.fixture
def shortcut(application: Any) -> Callable[[str], Callable[[], object]]:
    """Find what a key such as "A" or "Shift+D" does in the main window, which takes time there; call it to press it."""
    import qt

    def find(key: str) -> Callable[[], object]:
        window = application.util.mainWindow()
        if hasattr(qt, "stand_in"):
            return partial(qt.stand_in.key_click, window, key)
        # PythonQt sends no key events to the window, so the shortcut itself is triggered.
        keys = [c for c in window.children() if c.className() == "QShortcut" and c.key.toString() == key]
        actions = [a for a in window.findChildren(qt.QAction) if a.shortcut.toString() == key and a.enabled]
        assert len(keys) <= 1 and not (keys and actions), f"{key} is ambiguous"  # Qt would call neither
        return keys[0].activated if keys else lambda: None

    return find


@pytest.fixture
def press(shortcut: Any, application: Any) -> Callable[[str], None]:
    """Press a key on the main window."""

    def press(key: str) -> None:
        shortcut(key)()
        application.app.processEvents()

    return press


@pytest.fixture
def volumes(application: Any) -> Callable[..., tuple[Any, Any]]:
    """Add the images of a result to the scene: SWI and phase nodes."""

    def add(result: Any, name: str = "case") -> tuple[Any, Any]:
        from CMBDetectorLib.scene.volumes import add_volume

        scene = application.mrmlScene
        return add_volume(scene, result.swi, f"{name} SWI"), add_volume(scene, result.phase, f"{name} phase")

    return add


@pytest.fixture
def place(application: Any) -> Callable[[Any], None]:
    """Place a point in the list that waits for it, as a click does, though no view is there to click into."""

    def place(position_ras_mm: Any) -> None:
        logic = application.app.applicationLogic()
        active = application.mrmlScene.GetNodeByID(logic.GetSelectionNode().GetActivePlaceNodeID())
        active.AddControlPoint(position_ras_mm)

    return place


@pytest.fixture
def another_case(volumes: Any, tmp_path: Path) -> Callable[..., tuple[Any, Any]]:
    """Add a case with two candidates to the scene, without showing it: SWI and case."""

    def add(name: str = "other") -> tuple[Any, Any]:
        from CMBDetectorLib.report import write_result
        from CMBDetectorLib.result import InputFile
        from CMBDetectorLib.scene.case import show_result
        from Testing.synthetic_result import BALLS, synthetic_result

        result = synthetic_result(balls=BALLS[:2])
        made = replace(result.provenance, swi=InputFile(f"/data/{name}.nii.gz", "ef" * 32))
        result = replace(result, provenance=made)
        swi, phase = volumes(result, name)
        return swi, show_result(write_result(result, tmp_path / f"result {name}", with_images=True), swi, phase)

    return add


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A result with three candidates to review and an excluded one, and its folder."""
    from CMBDetectorLib.report import write_result
    from Testing.synthetic_result import synthetic_result

    result = synthetic_result()
    return result, write_result(result, tmp_path_factory.mktemp("written") / "result", with_images=True)


@pytest.fixture
def case(panel: Any, volumes: Any, written: Any, tmp_path: Path, wait: Any) -> Any:
    """A case with three candidates to review and an excluded one, shown in the panel."""
    from CMBDetectorLib.scene.case import show_result

    result, folder = written
    swi, phase = volumes(result)
    show_result(Path(shutil.copytree(folder, tmp_path / "result")), swi, phase)
    panel._parameterNode.swi, panel._parameterNode.phase = swi, phase
    wait(lambda: panel.review.case is not None)
    return panel.review.case


@pytest.fixture
def scan(panel: Any, application: Any, small_scan: Any) -> Any:
    """SWI node of a scan that is searched quickly, chosen in the panel with its phase."""
    add = application.modules.volumes.logic().AddArchetypeVolume
    swi, phase = add(str(small_scan.swi), "Small SWI"), add(str(small_scan.phase), "Small phase")
    panel._parameterNode.swi, panel._parameterNode.phase = swi, phase
    panel.update()
    return swi
