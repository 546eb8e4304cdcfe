"""Volume nodes reach the worker as they lie in the scene."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from CMBDetectorLib.errors import InputError
from CMBDetectorLib.result import Result
from CMBDetectorLib.scene.volumes import acquisition_of, add_volume, matrix_of, to_volume, write_for_worker
from CMBDetectorLib.volume import Acquisition, read_volume, write_sidecar, write_volume
from Testing.synthetic_result import synthetic_result


@pytest.fixture(scope="module")
def result() -> Result:
    return synthetic_result(tilt_deg=17.0)


@pytest.fixture
def swi(scene: Any, result: Result) -> Any:
    return add_volume(scene, result.swi, "5: SWI Images")


def moved_under(scene: Any, node: Any, transform: Any) -> None:
    scene.AddNode(transform)
    node.SetAndObserveTransformNodeID(transform.GetID())


def test_the_worker_reads_the_voxels_and_the_geometry_of_the_node(swi: Any, result: Result, tmp_path: Path) -> None:
    written = write_for_worker(swi, tmp_path)
    read = read_volume(written)
    assert np.array_equal(read.array, result.swi.array)
    assert read.ijk_to_ras == pytest.approx(result.swi.ijk_to_ras, abs=1e-9)
    assert read.sha256 == to_volume(swi).sha256
    assert written.name == "5_SWI_Images.nrrd", "messages show it"


def test_two_nodes_of_one_name_have_two_files(swi: Any, tmp_path: Path) -> None:
    assert write_for_worker(swi, tmp_path) != write_for_worker(swi, tmp_path)


def test_whole_numbers_stay_whole(scene: Any, result: Result, tmp_path: Path) -> None:
    node = add_volume(scene, result.swi.with_array(result.swi.array.astype(np.int16)), "SWI")
    assert to_volume(node).array.dtype == np.int16
    assert np.array_equal(read_volume(write_for_worker(node, tmp_path)).array, result.swi.array)


def test_a_linear_transform_is_applied(mrml: Any, scene: Any, swi: Any, result: Result, tmp_path: Path) -> None:
    turn = np.array([[0.0, -1, 0, 10], [1, 0, 0, 20], [0, 0, 1, 30], [0, 0, 0, 1]])
    transform = mrml.vtkMRMLLinearTransformNode()
    transform.SetMatrixTransformToParent(matrix_of(turn))
    moved_under(scene, swi, transform)
    read = read_volume(write_for_worker(swi, tmp_path))
    assert read.ijk_to_ras == pytest.approx(turn @ result.swi.ijk_to_ras, abs=1e-9)


def test_a_transform_that_bends_is_refused(mrml: Any, scene: Any, swi: Any, tmp_path: Path) -> None:
    import vtk

    bend = vtk.vtkThinPlateSplineTransform()
    transform = mrml.vtkMRMLTransformNode()
    transform.SetAndObserveTransformToParent(bend)
    moved_under(scene, swi, transform)
    with pytest.raises(InputError, match="5: SWI Images lies under a transform that bends it"):
        write_for_worker(swi, tmp_path)
    assert not [*tmp_path.iterdir()]


def test_what_is_no_gray_image_is_refused(scene: Any, result: Result, tmp_path: Path) -> None:
    import vtk

    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    with pytest.raises(InputError, match="empty holds no image"):
        write_for_worker(empty, tmp_path)
    color = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "color")
    image = vtk.vtkImageData()
    image.SetDimensions(8, 8, 8)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    color.SetAndObserveImageData(image)
    with pytest.raises(InputError, match="color holds 3 numbers per voxel"):
        write_for_worker(color, tmp_path)


SAID = Acquisition(modality="MR", series="SWI", image_type="ORIGINAL\\PRIMARY", echo_time_ms=20.0, field_strength_t=3.0)


def test_what_a_sidecar_says_reaches_the_worker(scene: Any, result: Result, tmp_path: Path) -> None:
    (tmp_path / "sent").mkdir()
    write_volume(result.swi, tmp_path / "scan.nii.gz")
    write_sidecar(SAID, tmp_path / "scan.nii.gz")
    node = add_volume(scene, result.swi, "SWI")
    assert acquisition_of(node) is None
    node.AddDefaultStorageNode()
    node.GetStorageNode().SetFileName(str(tmp_path / "scan.nii.gz"))
    assert read_volume(write_for_worker(node, tmp_path / "sent")).acquisition == SAID


class Database:
    """What of Slicer's DICOM database is read (`ctkDICOMDatabase`)."""

    isOpen = True  # noqa: N815

    def instanceValue(self, instance: str, tag: str) -> str:  # noqa: N802
        if instance != "1.2.3":
            raise RuntimeError("not in the database")
        return {"0008,0060": "MR", "0008,103E": "SWI", "0008,0008": "ORIGINAL\\PRIMARY", "0018,0081": "20",
                "0018,0087": "3"}.get(tag, "")  # fmt: skip


@pytest.fixture
def database(mrml: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(mrml, "dicomDatabase", Database(), raising=False)
    yield


@pytest.mark.usefixtures("database")
def test_what_the_dicom_database_knows_reaches_the_worker(swi: Any, tmp_path: Path) -> None:
    swi.SetAttribute("DICOM.instanceUIDs", "1.2.3 1.2.4")
    assert read_volume(write_for_worker(swi, tmp_path)).acquisition == SAID
    swi.SetAttribute("DICOM.instanceUIDs", "9.9.9")
    assert acquisition_of(swi) is None


def test_a_sidecar_keeps_only_what_is_known(tmp_path: Path) -> None:
    write_sidecar(replace(SAID, echo_time_ms=None, image_type=""), tmp_path / "scan.nii.gz")
    text = (tmp_path / "scan.json").read_text()
    assert '"MagneticFieldStrength": 3.0' in text and "EchoTime" not in text and "ImageType" not in text
