"""Volume nodes as files that the worker reads, and as `volume.Volume`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from CMBDetectorLib.errors import InputError
from CMBDetectorLib.volume import (
    Acquisition,
    Volume,
    acquisition_from_dicom,
    read_sidecar,
    write_sidecar,
    write_volume,
)

LONGEST = 60  # letters of a file name; file systems take 255 bytes, and a letter may have four


def write_for_worker(node: Any, folder: Path, stem: str = "") -> Path:
    """Write a volume node into a folder, with what is known of its acquisition in a sidecar beside it.

    Parameters
    ----------
    node : vtkMRMLScalarVolumeNode
    folder : Path
        Has to exist.
    stem : str
        Of the file's name; made from the node's name when empty, as messages show it.

    Returns
    -------
    Path
        The image: what `request.DetectionRequest` takes.

    Raises
    ------
    InputError
        The node holds no single 3D image, or lies under a transform that bends it.
    OutputError
        It cannot be written.
    """
    volume = to_volume(node)
    stem = stem or re.sub(r"[^\w.-]+", "_", node.GetName() or "")[:LONGEST].strip("._") or "image"
    path = folder / f"{stem}.nrrd"
    if path.exists():  # nodes may share a name
        path = folder / f"{stem}-2.nrrd"
    write_volume(volume, path, compress=False)  # read back at once, so smaller is not better
    if volume.acquisition:
        write_sidecar(volume.acquisition, path)
    return path


def to_volume(node: Any) -> Volume:
    """Array and geometry (RAS, mm) of a volume node, under its transform where it has one.

    The array is the node's own memory: copy it before changing anything. Raises `InputError` as `write_for_worker`.
    """
    image, name = node.GetImageData(), node.GetName()
    if image is None or image.GetNumberOfPoints() == 0 or image.GetPointData().GetScalars() is None:
        raise InputError(f"{name} holds no image. Choose another volume.")
    if image.GetNumberOfScalarComponents() != 1:
        raise InputError(f"{name} holds {image.GetNumberOfScalarComponents()} numbers per voxel. Choose a gray image.")
    to_ras = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(to_ras)
    matrix = array_of(to_ras)
    if transform := node.GetParentTransformNode():
        if not transform.IsTransformToWorldLinear():
            raise InputError(f"{name} lies under a transform that bends it. Harden that transform first.")
        to_world = vtk.vtkMatrix4x4()
        transform.GetMatrixTransformToWorld(to_world)
        matrix = array_of(to_world) @ matrix
    voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions(), order="F")
    return Volume(voxels, matrix, source=name, acquisition=acquisition_of(node))


def acquisition_of(node: Any) -> Acquisition | None:
    """What the scanner wrote: from Slicer's DICOM database or a sidecar; None where nothing is known."""
    instances = (node.GetAttribute("DICOM.instanceUIDs") or "").split()
    database: Any = getattr(slicer, "dicomDatabase", None)  # only in the application

    def tag_text(tag: str) -> str:
        try:
            return database.instanceValue(instances[0], tag.replace("|", ",").upper()) or ""
        except RuntimeError:  # no longer in the database
            return ""

    if instances and database and database.isOpen and (said := acquisition_from_dicom(tag_text)) != Acquisition():
        return said
    storage = node.GetStorageNode()
    file = storage.GetFullNameFromFileName() if storage and storage.GetFileName() else ""
    return read_sidecar(Path(file)) if file else None


def add_volume(scene: Any, volume: Volume, name: str) -> Any:
    """Add a scalar volume node that holds a copy of a `Volume`."""
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.CreateDefaultDisplayNodes()
    fill_volume(node, volume)
    return node


def fill_volume(node: Any, volume: Volume) -> None:
    """Put a copy of a `Volume` into a volume node."""
    node.SetIJKToRASMatrix(matrix_of(volume.ijk_to_ras))
    image = vtk.vtkImageData()
    fill_image(image, volume.array)
    node.SetAndObserveImageData(image)


def fill_image(image: Any, array: npt.NDArray) -> None:
    """Put a copy of an array [i, j, k] into VTK image data."""
    image.SetDimensions(array.shape)
    image.GetPointData().SetScalars(numpy_to_vtk(array.ravel(order="F"), deep=True))


def array_of(matrix: Any) -> npt.NDArray[np.float64]:
    """Return a vtkMatrix4x4 as an array."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def matrix_of(array: npt.NDArray[np.float64]) -> Any:
    """Return an array (4, 4) as a vtkMatrix4x4."""
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(array.ravel().tolist())
    return matrix
