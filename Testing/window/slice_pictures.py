"""The slice views as pictures without a screen: Slicer's slice logics and displayable managers, drawn by OSMesa.

Outside Slicer only; there are no widgets around them, so no slider and no corner annotation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

MANAGERS = (
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLRulerDisplayableManager",
)
Picture = npt.NDArray[np.uint8]


class SlicePicture:
    """One slice view drawn into memory.

    Parameters
    ----------
    logic : vtkMRMLSliceLogic
        Of the view.
    application_logic : vtkMRMLApplicationLogic
    size : tuple of int
        Width and height, pixels.
    """

    def __init__(self, logic: Any, application_logic: Any, size: tuple[int, int]) -> None:
        import slicer
        import vtk

        self._logic = logic
        self._node = logic.GetSliceNode()
        fov = self._node.GetFieldOfView()
        per_pixel = min(fov[:2]) / min(size)
        self._node.SetDimensions(*size, 1)
        self._node.SetFieldOfView(size[0] * per_pixel, size[1] * per_pixel, fov[2])
        self._renderer = vtk.vtkRenderer()
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(1)
        self._window.SetSize(*size)
        self._window.SetMultiSamples(0)
        self._window.AddRenderer(self._renderer)
        self._interactor = vtk.vtkGenericRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        mapper = vtk.vtkImageMapper()
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        mapper.SetInputConnection(logic.GetImageDataConnection())
        image = vtk.vtkActor2D()
        image.SetMapper(mapper)
        image.GetProperty().SetDisplayLocationToBackground()
        self._renderer.AddActor2D(image)
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(application_logic)
        for name in MANAGERS:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        self._group = factory.InstantiateDisplayableManagers(self._renderer)
        self._group.SetMRMLDisplayableNode(self._node)

    def draw(self) -> Picture:
        """Draw it now: (height, width, 3)."""
        import vtk
        from vtk.util.numpy_support import vtk_to_numpy

        self._logic.UpdatePipeline()
        self._window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self._window)
        grab.ReadFrontBufferOff()
        grab.Update()
        image = grab.GetOutput()
        width, height, _ = image.GetDimensions()
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, 3)[::-1].copy()


def four_views(application_logic: Any, size: tuple[int, int] = (480, 360)) -> Picture:
    """The four views of a review as they are arranged in Slicer."""
    names = (("Red", "CMBPhase"), ("Yellow", "Green"))
    logics = [[application_logic.GetSliceLogicByLayoutName(name) for name in row] for row in names]
    drawn = [[SlicePicture(logic, application_logic, size).draw() for logic in row] for row in logics]
    gap = 4
    rows = [np.concatenate([np.pad(p, ((0, gap), (0, gap), (0, 0))) for p in row], axis=1) for row in drawn]
    return np.concatenate(rows)[:-gap, :-gap]
