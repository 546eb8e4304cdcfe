"""The regions of a case as a segmentation: three groups that are shown, thirteen MARS regions on demand."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from CMBDetectorLib.regions import REGION_COLORS, SUB_REGIONS, Region
from CMBDetectorLib.report.segmentation import terminology
from CMBDetectorLib.scene.volumes import array_of, fill_image, matrix_of
from CMBDetectorLib.volume import Volume

SUB_REGION_IDS = {sub.label: f"MARS_{sub.label}" for sub in SUB_REGIONS}
GROUP_IDS = {region: f"MARS_{region.value}" for region in Region}
OUTLINE_OPACITY = 0.4  # lesions stay in sight


def fill_segmentation(node: Any, regions: Volume) -> None:
    """Make a segmentation node show a MARS label map (0-13): its groups, as outlines."""
    segmentation = node.GetSegmentation()
    was = node.StartModify()
    segmentation.RemoveAllSegments()
    node.CreateDefaultDisplayNodes()
    labels = np.ascontiguousarray(regions.array, np.uint8)
    groups = np.array([0] + [list(Region).index(sub.region) + 1 for sub in SUB_REGIONS], np.uint8)[labels]
    # All segments of a kind share one image, in which each has its own number.
    image = _image(regions.with_array(groups))
    for number, region in enumerate(Region, start=1):
        _add(segmentation, GROUP_IDS[region], region.value, REGION_COLORS[region], number, image, "")
    image = _image(regions.with_array(labels))
    for sub in SUB_REGIONS:
        _add(segmentation, SUB_REGION_IDS[sub.label], sub.name, sub.color, sub.label, image, terminology(sub))
    display = node.GetDisplayNode()
    display.SetVisibility2DFill(False)
    display.SetVisibility2DOutline(True)
    display.SetOpacity2DOutline(OUTLINE_OPACITY)
    display.SetVisibility3D(False)
    show_sub_regions(node, False)
    node.EndModify(was)


def show_sub_regions(node: Any, shown: bool) -> None:
    """Show the 13 MARS regions, or the three groups."""
    display = node.GetDisplayNode()
    was = display.StartModify()
    for ids, visible in ((GROUP_IDS.values(), not shown), (SUB_REGION_IDS.values(), shown)):
        for segment_id in ids:
            if node.GetSegmentation().GetSegment(segment_id):
                display.SetSegmentVisibility(segment_id, visible)
    display.EndModify(was)


def regions_of(node: Any) -> Volume | None:
    """The MARS label map in a segmentation node, as a reader may have edited it; None when it has none left."""
    name = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    parts = []
    for label, segment_id in SUB_REGION_IDS.items():
        segment = node.GetSegmentation().GetSegment(segment_id)
        image = segment.GetRepresentation(name) if segment else None
        if image and image.GetNumberOfPoints():
            parts.append((label, segment.GetLabelValue(), image))
    if not parts:
        return None
    # Slicer crops images to what is in them, so they may begin at different voxels of one grid.
    extents = np.array([image.GetExtent() for _, _, image in parts])
    first, last = extents[:, ::2].min(axis=0), extents[:, 1::2].max(axis=0)
    labels = np.zeros(last - first + 1, np.uint8)
    for label, value, image in parts:
        start, end = np.array(image.GetExtent()[::2]) - first, np.array(image.GetExtent()[1::2]) - first + 1
        voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions(), order="F")
        labels[tuple(map(slice, start, end))][voxels == value] = label
    to_world = vtk.vtkMatrix4x4()
    parts[0][2].GetImageToWorldMatrix(to_world)
    matrix = array_of(to_world)
    matrix[:3, 3] += matrix[:3, :3] @ first
    return Volume(labels, matrix, source=node.GetName())


def _image(volume: Volume) -> Any:
    image = slicer.vtkOrientedImageData()
    fill_image(image, volume.array)
    image.SetImageToWorldMatrix(matrix_of(volume.ijk_to_ras))
    return image


def _add(
    segmentation: Any, id: str, name: str, color: tuple[int, int, int], value: int, image: Any, terminology: str
) -> None:
    segment = slicer.vtkSegment()
    segment.SetName(name)
    segment.SetColor(*(channel / 255 for channel in color))
    segment.SetLabelValue(value)
    if terminology:
        segment.SetTag(segment.GetTerminologyEntryTagName(), terminology)
    segment.AddRepresentation(slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName(), image)
    segmentation.AddSegment(segment, id)
