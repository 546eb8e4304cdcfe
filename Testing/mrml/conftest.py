"""A real MRML scene for tests: Slicer's own where they run in Slicer, else one built from slicer-core."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

# Whose nodes the tests need, in an order in which each finds what it builds on.
MODULE_LOGICS = {
    "Colors": "vtkSlicerColorLogic",
    "Terminologies": "vtkSlicerTerminologiesModuleLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Data": "vtkSlicerDataModuleLogic",
}


@pytest.fixture(scope="session")
def mrml(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The `slicer` package with `slicer.mrmlScene` and the module logics behind it."""
    import slicer

    if hasattr(slicer, "app"):
        yield slicer
        return
    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    logics = {}  # the application holds them weakly
    for module, class_name in MODULE_LOGICS.items():
        logic = logics[module] = getattr(slicer, class_name)()
        logic.SetMRMLApplicationLogic(application)
        logic.SetMRMLScene(scene)
        application.SetModuleLogic(module, logic)
    logics["Colors"].AddDefaultColorNodes()
    # Scenes in one file (MRB) are unpacked into the folder of downloads.
    downloads, files = slicer.vtkMRMLRemoteIOLogic(), slicer.vtkDataIOManagerLogic()
    downloads.SetMRMLScene(scene)
    downloads.AddDataIOToScene()
    files.SetAndObserveDataIOManager(scene.GetDataIOManager())
    scene.GetCacheManager().SetRemoteCacheDirectory(str(tmp_path_factory.mktemp("downloads")))
    slicer.mrmlScene = scene
    yield slicer


@pytest.fixture
def scene(mrml: Any) -> Any:
    """The scene, empty but for its singletons."""
    mrml.mrmlScene.Clear(False)
    return mrml.mrmlScene
