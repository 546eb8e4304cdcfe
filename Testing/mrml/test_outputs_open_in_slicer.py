"""What `write_result` writes opens in Slicer's own storage nodes as it was meant."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from CMBDetectorLib.regions import SUB_REGIONS
from CMBDetectorLib.report import write_result
from CMBDetectorLib.result import Result
from Testing.synthetic_result import synthetic_result


@pytest.fixture(scope="module", params=[0.0, 17.0], ids=["straight", "oblique"])
def result(request: pytest.FixtureRequest) -> Result:
    return synthetic_result(tilt_deg=request.param)


@pytest.fixture(scope="module")
def folder(result: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = write_result(result, tmp_path_factory.mktemp("case") / "written", with_images=True)
    moved = written.with_name("moved and renamed")
    shutil.move(written, moved)  # a scene that names its files by relative paths does not mind
    return moved


@pytest.fixture
def segments(scene: Any, folder: Path) -> Any:
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(folder / "regions.seg.nrrd"))
    assert storage.ReadData(node) == 1
    return node


def voxels(oriented_image: Any) -> np.ndarray:
    from vtk.util.numpy_support import vtk_to_numpy

    return vtk_to_numpy(oriented_image.GetPointData().GetScalars())


def assert_points_are_candidates(node: Any, result: Result) -> None:
    assert node.GetNumberOfControlPoints() == len(result.reported)
    for index, candidate in enumerate(result.reported):
        position = [0.0, 0.0, 0.0]
        node.GetNthControlPointPositionWorld(index, position)
        assert position == pytest.approx(candidate.center_ras_mm, abs=1e-6)
        assert node.GetNthControlPointLabel(index) == candidate.label
        assert candidate.id in node.GetNthControlPointDescription(index)
        assert bool(node.GetNthControlPointVisibility(index)) is not candidate.is_excluded
        assert bool(node.GetNthControlPointSelected(index)) is not candidate.is_excluded
        assert node.GetNthControlPointLocked(index)


def assert_segments_are_regions(node: Any, result: Result) -> None:
    segmentation = node.GetSegmentation()
    assert segmentation.GetNumberOfSegments() == len(SUB_REGIONS)
    for index, sub in enumerate(SUB_REGIONS):
        segment = segmentation.GetNthSegment(index)
        assert segment.GetName() == sub.name
        assert np.rint(np.array(segment.GetColor()) * 255).tolist() == list(sub.color)
        assert segment.GetLabelValue() == sub.label
        image = segment.GetRepresentation("Binary labelmap")
        assert np.count_nonzero(voxels(image) == sub.label) == np.count_nonzero(result.regions.array == sub.label)


@pytest.fixture
def points(scene: Any, folder: Path) -> Any:
    """The point list as Slicer makes it from the file alone, display included."""
    storage = scene.AddNewNodeByClass("vtkMRMLMarkupsJsonStorageNode")
    return storage.AddNewMarkupsNodeFromFile(str(folder / "candidates.mrk.json"))


def test_the_candidates_are_points_at_their_places(points: Any, result: Result) -> None:
    assert points.GetClassName() == "vtkMRMLMarkupsFiducialNode"
    assert points.GetLocked()
    assert_points_are_candidates(points, result)


def test_a_lesion_of_3_mm_is_not_covered_by_its_marker(mrml: Any, points: Any) -> None:
    display = points.GetDisplayNode()
    assert not display.GetUseGlyphScale()
    glyph = mrml.vtkMarkupsGlyphSource2D()
    getattr(glyph, f"SetGlyphTypeTo{display.GetGlyphTypeAsString().removesuffix('2D')}")()
    glyph.SetScale(display.GetGlyphSize())
    glyph.Update()
    drawn = [glyph.GetOutput().GetPoint(index) for index in range(glyph.GetOutput().GetNumberOfPoints())]
    assert min(np.linalg.norm(drawn, axis=1)) > 1.5


def test_the_regions_are_named_and_colored_segments(segments: Any, result: Result) -> None:
    assert_segments_are_regions(segments, result)


def test_a_segment_knows_its_standard_code(segments: Any) -> None:
    import vtk

    for index, sub in enumerate(SUB_REGIONS):
        entry = vtk.reference("")
        segment = segments.GetSegmentation().GetNthSegment(index)
        assert segment.GetTag(segment.GetTerminologyEntryTagName(), entry)
        assert f"SCT^{sub.sct_code}^{sub.sct_meaning}" in str(entry)


def test_the_segments_lie_where_the_regions_lie(segments: Any, result: Result) -> None:
    import vtk

    image = segments.GetSegmentation().GetNthSegment(2).GetRepresentation("Binary labelmap")
    to_world = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(to_world)
    matrix = np.array([[to_world.GetElement(row, column) for column in range(4)] for row in range(4)])
    array = voxels(image).reshape(image.GetDimensions(), order="F")
    seen = (np.argwhere(array == 3) + image.GetExtent()[::2]) @ matrix[:3, :3].T + matrix[:3, 3]
    expected = result.regions.ras_of(np.argwhere(result.regions.array == 3))
    assert len(seen) > 1000
    assert np.abs(np.sort(seen, axis=0) - np.sort(expected, axis=0)).max() < 1e-3


def test_the_moved_scene_opens_with_everything_in_it(scene: Any, folder: Path, result: Result) -> None:
    scene.SetURL(str(folder / "scene.mrml"))
    assert scene.Connect() == 1
    # Slicer's own color tables may have files, too.
    storable = [n for n in nodes(scene, "vtkMRMLStorableNode") if n.GetStorageNode() and not n.IsA("vtkMRMLColorNode")]
    assert {Path(node.GetStorageNode().GetFullNameFromFileName()).name for node in storable} == {
        "swi.nii.gz", "phase_filtered.nii.gz", "regions.seg.nrrd", "candidates.mrk.json",
    }  # fmt: skip
    assert all(node.GetDisplayNode() for node in storable)
    assert_points_are_candidates(scene.GetFirstNodeByName("CMB candidates"), result)
    assert_segments_are_regions(scene.GetFirstNodeByName("regions"), result)
    swi = scene.GetFirstNodeByName("SWI")
    assert voxels(swi.GetImageData()).tolist() == result.swi.array.ravel(order="F").tolist()


def test_the_moved_scene_opens_at_the_first_counted_candidate(scene: Any, folder: Path, result: Result) -> None:
    scene.SetURL(str(folder / "scene.mrml"))
    scene.Connect()
    swi, phase = scene.GetFirstNodeByName("SWI"), scene.GetFirstNodeByName("phase")
    views = {node.GetLayoutName(): node for node in nodes(scene, "vtkMRMLSliceNode")}
    assert set(views) >= {"Red", "Green", "Yellow"}
    for layout, through in (("Red", 2), ("Green", 1), ("Yellow", 0)):
        matrix = views[layout].GetSliceToRAS()
        normal = [abs(matrix.GetElement(row, 2)) for row in range(3)]
        assert np.argmax(normal) == through
        place = [matrix.GetElement(row, 3) for row in range(3)]
        assert place == pytest.approx(result.counted[0].center_ras_mm, abs=1e-3)
    composites = [
        n for n in nodes(scene, "vtkMRMLSliceCompositeNode") if n.GetLayoutName() in ("Red", "Green", "Yellow")
    ]
    assert len(composites) == 3
    for composite in composites:
        assert composite.GetBackgroundVolumeID() == swi.GetID()
        assert composite.GetForegroundVolumeID() == phase.GetID()
        assert composite.GetForegroundOpacity() == 0


def test_the_scene_shows_lesions_in_the_window_of_the_picture(scene: Any, folder: Path) -> None:
    scene.SetURL(str(folder / "scene.mrml"))
    scene.Connect()
    display = scene.GetFirstNodeByName("SWI").GetDisplayNode()
    assert not display.GetAutoWindowLevel()
    assert display.GetWindowLevelMin() < 300 < display.GetWindowLevelMax()


def nodes(scene: Any, class_name: str) -> list[Any]:
    found = scene.GetNodesByClass(class_name)
    return [found.GetItemAsObject(index) for index in range(found.GetNumberOfItems())]
