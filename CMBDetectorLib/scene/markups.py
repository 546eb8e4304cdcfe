"""The findings of a case as points: one list per marker class, because a list has one color.

The description of a point begins with the key of its finding: that is how the two know each other, also in a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import slicer
from vtk.util.numpy_support import numpy_to_vtk

from CMBDetectorLib.report.markups import DISPLAY, describe
from CMBDetectorLib.review import MARKER_COLORS, Finding, Marker

Position = tuple[float, float, float]

# Said twice, by color and by size. The arms of a cross leave its inner 40 % free, so a lesion stays uncovered.
GLYPH_MM = {Marker.UNDECIDED: 12.0, Marker.ACCEPTED: 12.0, Marker.REJECTED: 8.0, Marker.EXCLUDED: 8.0}
STAYED_MM = 1e-3  # less is rounding, not a reader's hand


def add_list(scene: Any, marker: Marker, case: str) -> Any:
    """Add an empty list for findings of one marker class."""
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", f"{case} {marker.value}")
    node.SetControlPointLabelFormat("new")
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    was = display.StartModify()
    color = [channel / 255 for channel in MARKER_COLORS[marker]]
    display.SetSelectedColor(color)
    display.SetColor(color)
    display.SetGlyphTypeFromString(DISPLAY["glyphType"])
    display.SetUseGlyphScale(DISPLAY["useGlyphScale"])
    display.SetGlyphSize(GLYPH_MM[marker])
    display.SetTextScale(DISPLAY["textScale"])
    display.SetPointLabelsVisibility(DISPLAY["pointLabelsVisibility"])
    display.SetPropertiesLabelVisibility(DISPLAY["propertiesLabelVisibility"])
    display.SetSliceProjection(DISPLAY["sliceProjection"])
    display.EndModify(was)
    return node


def show_findings(node: Any, findings: Sequence[Finding]) -> None:
    """Make a list hold just these findings; only what differs is touched, and viewers hear of it once."""
    wanted = {finding.key: finding for finding in findings}
    was = node.StartModify()
    seen: set[str] = set()
    for index in range(node.GetNumberOfControlPoints() - 1, -1, -1):
        key = key_of(node, index)
        if key not in wanted or key in seen:
            node.RemoveNthControlPoint(index)
        seen.add(key)
    present = {key_of(node, index): index for index in range(node.GetNumberOfControlPoints())}
    changed = len(present) < len(wanted)
    for key, finding in wanted.items():
        if key in present:
            changed |= _update(node, present[key], finding)
        else:
            index = node.AddControlPointWorld(finding.position_ras_mm, finding.label)
            node.SetNthControlPointDescription(index, describe(finding))
    if changed or node.GetNumberOfMeasurements() == 0:
        _measure(node, wanted)
    node.EndModify(was)


def key_of(node: Any, index: int) -> str:
    """Key of the finding that a point shows; for a point that a reader just placed, none that exists."""
    return node.GetNthControlPointDescription(index).partition(":")[0]


def name_point(node: Any, index: int, finding: Finding) -> None:
    """Make a point that a reader placed the one that shows a finding."""
    node.SetNthControlPointDescription(index, describe(finding))
    node.SetNthControlPointLabel(index, finding.label)


def position_of(node: Any, index: int) -> Position | None:
    """Where a point lies (RAS, mm); None while it is still being placed."""
    if node.GetNthControlPointPositionStatus(index) != node.PositionDefined:
        return None
    r, a, s = node.GetNthControlPointPositionWorld(index)
    return float(r), float(a), float(s)


def is_at(position: Position, finding: Finding) -> bool:
    """Whether a point lies where the review says."""
    return bool(np.linalg.norm(np.subtract(position, finding.position_ras_mm)) < STAYED_MM)


def _update(node: Any, index: int, finding: Finding) -> bool:
    changed = False
    position = position_of(node, index)
    if position is None or not is_at(position, finding):
        node.SetNthControlPointPositionWorld(index, finding.position_ras_mm)
        changed = True
    if node.GetNthControlPointLabel(index) != finding.label:
        node.SetNthControlPointLabel(index, finding.label)
        changed = True
    if node.GetNthControlPointDescription(index) != (text := describe(finding)):
        node.SetNthControlPointDescription(index, text)
        changed = True
    return changed


def _measure(node: Any, wanted: dict[str, Finding]) -> None:
    """Give every point its probability and diameter, as measurements that the Markups module and files show."""
    shown = [wanted[key_of(node, index)] for index in range(node.GetNumberOfControlPoints())]
    columns = {
        "probability": ("", [f.probability or 0.0 for f in shown]),
        "diameter": ("mm", [np.nan_to_num(f.diameter_mm) for f in shown]),  # JSON has no NaN
    }
    for name, (unit, values) in columns.items():
        measurement = node.GetMeasurement(name)
        if measurement is None:
            measurement = slicer.vtkMRMLStaticMeasurement()
            measurement.SetName(name)
            measurement.SetUnits(unit)
            measurement.SetInputMRMLNode(node)
            node.AddMeasurement(measurement)
        array = numpy_to_vtk(np.array(values, float), deep=True)
        array.SetName(name)
        measurement.SetControlPointValues(array)
