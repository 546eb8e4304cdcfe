"""Which images are chosen, what is said of them before a search, and what is said where packages are missing."""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from CMBDetectorLib.volume import Acquisition, Volume


@pytest.fixture
def add(application: Any) -> Any:
    def add(name: str, volume: Volume | None = None) -> Any:
        from CMBDetectorLib.scene.volumes import add_volume

        small = Volume(np.arange(1000, dtype=np.float32).reshape(10, 10, 10), np.eye(4))
        return add_volume(application.mrmlScene, volume or small, name)

    return add


def chosen(panel: Any) -> tuple[Any, Any]:
    return panel.ui.swiSelector.currentNode(), panel.ui.phaseSelector.currentNode()


@pytest.mark.parametrize(
    ("names", "swi", "phase"),
    [
        (["12: t2_swi3d_tra", "13: t2_swi3d_tra_Pha", "14: mIP_SWI"], 0, 1),
        (["SWI_Images", "Pha_Images", "mIP_Images(SW)"], 0, 1),
        (["sub-01_swi", "sub-01_part-phase_GRE"], 0, 1),
        (["SWAN", "FILT_PHA: SWAN", "T1"], 0, 1),
        (["swi", "swi 2", "phase"], None, None),  # which one is not clear
        (["swi", "phase left", "phase right"], 0, None),
        (["T1", "FLAIR"], None, None),
    ],
)
def test_a_clear_choice_is_made_by_name(
    panel: Any, wait: Any, add: Any, application: Any, names: list[str], swi: int | None, phase: int | None
) -> None:
    volumes = [add(name) for name in names]
    for _ in range(20):
        application.app.processEvents()
    wanted = tuple(None if index is None else volumes[index] for index in (swi, phase))
    assert chosen(panel) == wanted


@pytest.mark.parametrize(
    ("image_type", "kind"),
    [
        (r"ORIGINAL\PRIMARY\M\SWI\NORM\DIS2D", "swi"),
        (r"ORIGINAL\PRIMARY\P\SWI\NORM", "phase"),
        (r"DERIVED\SECONDARY\MNIP\SWI\NORM", ""),
        (r"ORIGINAL\PRIMARY\M\NORM", ""),
    ],
)
def test_dicom_says_what_a_nameless_series_is(panel: Any, image_type: str, kind: str) -> None:
    from CMBDetectorWindow.choice import kind as kind_of

    assert kind_of("401: Unnamed", Acquisition(modality="MR", image_type=image_type)) == kind


def test_a_choice_of_the_user_stays(panel: Any, wait: Any, add: Any, application: Any) -> None:
    mine = add("anything")
    panel.ui.swiSelector.setCurrentNode(mine)
    add("swi")
    for _ in range(20):
        application.app.processEvents()
    assert chosen(panel)[0] is mine


def test_none_that_the_user_chose_stays_none(panel: Any, wait: Any, add: Any, application: Any) -> None:
    swi = add("swi")
    wait(lambda: chosen(panel)[0] is swi)
    panel.ui.swiSelector.setCurrentNode(None)
    for name in ("T1", "FLAIR"):
        for _ in range(20):
            application.app.processEvents()
        assert chosen(panel) == (None, None)
        add(name)
    panel.exit()
    panel.enter()
    for _ in range(20):
        application.app.processEvents()
    assert chosen(panel) == (None, None)


def test_nothing_is_chosen_before_all_that_comes_is_there(panel: Any, wait: Any, add: Any, application: Any) -> None:
    scene = application.mrmlScene
    scene.StartState(scene.BatchProcessState)
    add("swi")
    for _ in range(20):
        application.app.processEvents()
    assert panel._parameterNode.swi is None
    phase = add("phase")
    scene.EndState(scene.BatchProcessState)
    wait(lambda: chosen(panel)[1] is phase)


def test_nothing_chosen_says_what_to_do(panel: Any, can_search: None) -> None:
    assert "Choose the SWI" in panel.ui.checkLabel.text
    assert not panel.ui.detectButton.enabled and "Choose the SWI" in panel.ui.detectButton.toolTip


def test_findings_of_preflight_stand_in_the_panel_before_a_search(panel: Any, can_search: None) -> None:
    panel.ui.sampleButton.click()
    assert "it was read as" in panel.ui.checkLabel.text
    panel.ui.phaseSelector.setCurrentNode(None)
    panel.update()
    assert "calcifications cannot be told" in panel.ui.checkLabel.text and panel.ui.detectButton.enabled


def test_swapped_images_are_refused_with_a_reason(panel: Any, can_search: None) -> None:
    panel.ui.sampleButton.click()
    swi, phase = chosen(panel)
    panel._parameterNode.swi, panel._parameterNode.phase = phase, swi
    panel.update()
    assert "swapped" in panel.ui.checkLabel.text
    assert not panel.ui.detectButton.enabled and "swapped" in panel.ui.detectButton.toolTip
    panel._parameterNode.phase = phase
    panel.update()
    assert "same volume" in panel.ui.detectButton.toolTip


def test_a_doubtful_scan_needs_a_tick(panel: Any, can_search: None, add: Any) -> None:
    from CMBDetectorLib.scene.volumes import to_volume

    panel.ui.sampleButton.click()
    whole = to_volume(chosen(panel)[0])
    slab = add("slab", Volume(whole.array[:, :, 20:45], whole.ijk_to_ras))  # 50 mm of the head
    panel._parameterNode.swi, panel._parameterNode.phase = slab, None
    panel.update()
    assert "covers only" in panel.ui.checkLabel.text and "--force" not in panel.ui.checkLabel.text
    assert panel.ui.forceCheckBox.visible and not panel.ui.detectButton.enabled
    panel.ui.forceCheckBox.checked = True
    panel.update()
    assert panel.ui.detectButton.enabled and "covers only" in panel.ui.checkLabel.text


# Packages


class Absent(importlib.abc.MetaPathFinder):
    """Makes packages as absent as they are in a fresh Slicer."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


@pytest.fixture
def without_torch(panel: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with monkeypatch.context() as patch:
        for name in [n for n in sys.modules if n.partition(".")[0] in ("torch", "skimage", "PyTorchUtils")]:
            patch.delitem(sys.modules, name)
        patch.setattr(sys, "meta_path", [Absent("torch", "skimage", "PyTorchUtils"), *sys.meta_path])
        panel.update()
        yield panel
    panel.update()


def test_without_torch_the_panel_explains_and_offers_to_install(without_torch: Any) -> None:
    panel = without_torch
    panel.ui.sampleButton.click()
    assert "PyTorch and scikit-image" in panel.ui.installLabel.text
    assert panel.ui.installButton.visible and panel.ui.installLabel.visible
    assert not panel.ui.detectButton.enabled and "PyTorch" in panel.ui.detectButton.toolTip
    panel.ui.offlineButton.click()
    advice = panel.ui.offlineLabel.text
    assert panel.ui.offlineLabel.visible and "pip download" in advice and "--no-index" in advice
    assert "torch" in advice and "scikit-image" in advice


def test_without_the_pytorch_extension_installing_says_where_to_get_it(without_torch: Any) -> None:
    with pytest.raises(RuntimeError, match="Extensions Manager"):
        without_torch.install()
    assert not without_torch.ui.detectButton.enabled


def test_a_review_works_without_torch(case: Any, without_torch: Any, press: Any) -> None:
    press("A")
    assert case.review.progress() == (1, 3)


def test_torch_is_installed_by_the_pytorch_extension(panel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from CMBDetectorWindow import installation

    asked = {}

    class Extension:
        def installTorch(self, **options: Any) -> object:  # noqa: N802
            asked.update(options)
            return object()

    extension: Any = types.ModuleType("PyTorchUtils")
    extension.PyTorchUtilsLogic = Extension
    monkeypatch.setitem(sys.modules, "PyTorchUtils", extension)
    installation.install(["torch"])
    assert asked == {"askConfirmation": True, "torchVersionRequirement": ">=2.5"}


@pytest.mark.parametrize("is_installed", [True, False])
def test_torch_that_was_installed_but_cannot_be_imported_into_this_slicer_will_do(
    without_torch: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_installed: bool
) -> None:
    """As after https://github.com/Slicer/light-the-torch/issues/176."""
    from CMBDetectorWindow import installation

    monkeypatch.syspath_prepend(tmp_path)
    absent: Any = sys.meta_path[0]
    asked: list[str] = []

    class Extension:
        def installTorch(self, **_options: Any) -> object:  # noqa: N802
            if is_installed:
                (tmp_path / "torch.py").touch()
                absent.names = ("skimage",)
            raise ImportError("numpy was replaced")

    extension: Any = types.ModuleType("PyTorchUtils")
    extension.PyTorchUtilsLogic = Extension
    monkeypatch.setitem(sys.modules, "PyTorchUtils", extension)
    packaging = importlib.import_module("slicer.packaging")
    monkeypatch.setattr(packaging, "pip_ensure", lambda requirements, **_options: asked.extend(map(str, requirements)))
    assert installation.missing() == ["torch", "skimage"]
    if is_installed:
        installation.install(["torch", "skimage"])
        assert installation.missing() == ["skimage"] and asked == ["scikit-image>=0.22"]
    else:
        with pytest.raises(ImportError, match="numpy was replaced"):
            installation.install(["torch", "skimage"])
        assert asked == []


def test_scikit_image_is_installed_by_slicer_itself(panel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from CMBDetectorWindow import installation

    asked: list[Any] = []
    packaging = importlib.import_module("slicer.packaging")
    monkeypatch.setattr(packaging, "pip_ensure", lambda *what, **how: asked.append((list(map(str, *what)), how)))
    installation.install(["skimage"])
    assert asked == [(["scikit-image>=0.22"], {"requester": "CMB Detector"})]
