"""A MRML scene with the logics of Slicer's modules behind it, from slicer-core: what tests use outside Slicer."""

from __future__ import annotations

import tempfile
from functools import cache
from typing import Any, NamedTuple

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


class MrmlScene(NamedTuple):
    """The scene and what keeps it alive."""

    scene: Any
    application_logic: Any
    logics: dict[str, Any]  # of the modules; the application logic holds them weakly
    files: tuple[Any, ...]


@cache
def start_scene() -> MrmlScene:
    """Make it and put it where Python code for Slicer looks for it: ``slicer.mrmlScene``."""
    import slicer

    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    logics = {}
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
    folder = tempfile.TemporaryDirectory(prefix="CMBDetector-tests-")
    scene.GetCacheManager().SetRemoteCacheDirectory(folder.name)
    slicer.mrmlScene = scene
    return MrmlScene(scene, application, logics, (downloads, files, folder))
