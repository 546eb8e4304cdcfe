"""``scene.mrml``: the files of a result as one Slicer scene, by relative paths, so that the folder can move."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from CMBDetectorLib.report.markups import DISPLAY, LIST_NAME
from CMBDetectorLib.result import Result

VOLUME = "vtkMRMLScalarVolumeNode"
# The columns of each matrix: to the right and up on the screen, and toward the reader, in RAS (radiological).
VIEWS = {
    "Red": ("Axial", ((-1, 0, 0), (0, 1, 0), (0, 0, 1))),
    "Green": ("Coronal", ((-1, 0, 0), (0, 0, 1), (0, 1, 0))),
    "Yellow": ("Sagittal", ((0, 0, 1), (-1, 0, 0), (0, 1, 0))),
}


def write_scene(result: Result, path: Path, *, images: dict[str, str], window: dict[str, tuple[float, float]]) -> None:
    """Write the regions, the candidates and, where copies lie in the folder, the images.

    Parameters
    ----------
    result : Result
        Where the first candidate lies is where the three views open.
    path : Path
        The scene file; everything it names lies beside it.
    images : dict
        Node name ("SWI", "phase") to file name, for the images to show.
    window : dict
        Node name to the gray values shown black and white.
    """
    scene = ElementTree.Element("MRML", version="Slicer4.4.0", userTags="")
    for index, (name, file) in enumerate(images.items(), start=1):
        low, high = window[name]
        _with_display_and_storage(
            scene, "Volume", f"{VOLUME}{index}", name, file,
            ("VolumeDisplay", f"vtkMRMLScalarVolumeDisplayNode{index}", {
                "colorNodeID": "vtkMRMLColorTableNodeGrey", "autoWindowLevel": "0",
                "window": f"{high - low:g}", "level": f"{(high + low) / 2:g}",
            }),
            ("VolumeArchetypeStorage", f"vtkMRMLVolumeArchetypeStorageNode{index}"),
        )  # fmt: skip
    _with_display_and_storage(
        scene, "Segmentation", "vtkMRMLSegmentationNode1", "regions", "regions.seg.nrrd",
        ("SegmentationDisplay", "vtkMRMLSegmentationDisplayNode1", {  # outlines only: lesions stay in sight
            "visibility": "true", "visibility3D": "false", "Visibility2DFill": "false", "Visibility2DOutline": "true",
            "Opacity2DOutline": "0.4",
        }),
        ("SegmentationStorage", "vtkMRMLSegmentationStorageNode1"),
    )  # fmt: skip
    _with_display_and_storage(
        scene, "MarkupsFiducial", "vtkMRMLMarkupsFiducialNode1", LIST_NAME, "candidates.mrk.json",
        ("MarkupsFiducialDisplay", "vtkMRMLMarkupsFiducialDisplayNode1",
         {key: _text(value) for key, value in DISPLAY.items()}),
        ("MarkupsJsonStorage", "vtkMRMLMarkupsJsonStorageNode1"),
    )  # fmt: skip
    if images:
        _views(scene, result, list(images))
    ElementTree.indent(scene)
    ElementTree.ElementTree(scene).write(path, encoding="UTF-8", xml_declaration=True)


def _with_display_and_storage(
    scene: ElementTree.Element,
    tag: str,
    id: str,
    name: str,
    file: str,
    display: tuple[str, str, dict[str, str]],
    storage: tuple[str, str],
) -> None:
    references = f"display:{display[1]};storage:{storage[1]};"
    ElementTree.SubElement(scene, tag, id=id, name=name, references=references)
    ElementTree.SubElement(scene, display[0], {"id": display[1], "name": display[0], **display[2]})
    ElementTree.SubElement(scene, storage[0], id=storage[1], name=storage[0], fileName=file)


def _views(scene: ElementTree.Element, result: Result, names: list[str]) -> None:
    """Open three slice views at the first counted candidate, SWI behind and phase, if any, ready to be faded in."""
    swi = result.swi
    middle = swi.ras_of((np.array(swi.array.shape) - 1) / 2)
    center = result.counted[0].center_ras_mm if result.counted else middle
    extent_mm = float(max(np.array(swi.array.shape) * swi.spacing_mm))
    references = f"backgroundVolume:{VOLUME}1;" + (f"foregroundVolume:{VOLUME}2;" if len(names) > 1 else "")
    for layout, (orientation, axes) in VIEWS.items():
        matrix = np.eye(4)
        matrix[:3, :3] = axes
        matrix[:3, 3] = center
        ElementTree.SubElement(
            scene, "Slice", id=f"vtkMRMLSliceNode{layout}", name=layout, singletonTag=layout, layoutName=layout,
            orientation=orientation, orientationReference=orientation, dimensions="256 256 1",
            fieldOfView=f"{extent_mm:g} {extent_mm:g} 1", sliceToRAS=_text(matrix.ravel()),
        )  # fmt: skip
        ElementTree.SubElement(
            scene, "SliceComposite", id=f"vtkMRMLSliceCompositeNode{layout}", name="SliceComposite",
            singletonTag=layout, layoutName=layout, references=references, foregroundOpacity="0",
        )  # fmt: skip


def _text(value: object) -> str:
    """Format a value as MRML writes it: true/false, numbers and sequences separated by spaces."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple | np.ndarray):
        return " ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
