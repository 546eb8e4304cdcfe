"""One case in the scene: its review as text, and everything that shows it, found again by node references."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import slicer

from CMBDetectorLib.localize import Segmentation
from CMBDetectorLib.measure import measure_spot, with_midline
from CMBDetectorLib.report.record import read_record
from CMBDetectorLib.report.review_record import review_of, review_text
from CMBDetectorLib.review import Finding, Marker, Review, Spot, Verdict
from CMBDetectorLib.scene.markups import (
    Position,
    add_list,
    is_at,
    key_of,
    name_point,
    position_of,
    show_findings,
)
from CMBDetectorLib.scene.segments import fill_segmentation, regions_of, show_sub_regions
from CMBDetectorLib.scene.volumes import add_volume, fill_volume, to_volume
from CMBDetectorLib.volume import Volume, read_volume

IS_CASE = "CMBDetector.case"  # attribute by which the text node of a case is known
HIDDEN = "CMBDetector.hidden"  # attribute of a display node: hidden with its case, not by the reader
SWI, PHASE, PHASE_FILTERED, REGIONS = "swi", "phase", "phaseFiltered", "regions"  # roles of its node references


def show_result(folder: Path, swi: Any, phase: Any = None, *, name: str = "", keep_vanishing: bool = True) -> Case:
    """Bring the folder that the worker wrote into the scene of `swi`.

    Where the SWI has a case already, the run is merged into its review (`Review.merge`); ask about
    `vanishing(folder, swi)` before. Otherwise a new case is made. All files are read before the scene is touched.

    Parameters
    ----------
    folder : Path
        A result, written `with_images` if the filtered phase is to be shown.
    swi, phase : vtkMRMLScalarVolumeNode
        What was searched; `phase` may be None.
    name : str
        Of a new case; that of the SWI node when empty.
    keep_vanishing : bool
        Keep what a reader touched and this run did not find again.

    Raises
    ------
    InputError
        The folder is not a whole result.
    """
    record = read_record(folder / "candidates.json")
    regions = read_volume(folder / "regions.nii.gz")
    filtered = folder / "phase_filtered.nii.gz"
    phase_filtered = read_volume(filtered) if filtered.exists() else None

    case = _case_of_swi(swi)
    if case is None:
        node = swi.GetScene().AddNewNodeByClass("vtkMRMLTextNode")
        # Inside the scene file and not beside it, where it could be left out when saving.
        node.SetForceCreateStorageNode(node.CreateStorageNodeNever)
        node.SetAttribute(IS_CASE, "1")
        node.SetNodeReferenceID(SWI, swi.GetID())
        case = Case(node)
        case._replace(Review(_free_name(name or swi.GetName(), swi.GetScene()), record))
        node.SetName(f"{case.name} review")
    else:
        case.review.merge(record, keep_vanishing=keep_vanishing)
    case.node.SetNodeReferenceID(PHASE, phase.GetID() if phase else None)
    case._show_images(regions, phase_filtered)
    case.save()
    return case


def vanishing(folder: Path, swi: Any) -> tuple[Finding, ...]:
    """Findings that a reader touched and that the run in `folder` did not find again; empty for a new case."""
    case = _case_of_swi(swi)
    return case.review.vanishing(read_record(folder / "candidates.json")) if case else ()


def cases(scene: Any) -> list[Case]:
    """Every case in a scene, also after it was loaded from a file.

    Keep the objects: each remembers what can be undone.
    """
    found = scene.GetNodesByClass("vtkMRMLTextNode")
    nodes = [found.GetItemAsObject(index) for index in range(found.GetNumberOfItems())]
    return [Case(node) for node in nodes if node.GetAttribute(IS_CASE)]


def case_of(volume: Any) -> Case | None:
    """The case whose SWI or phase (as given or as filtered) is this node."""
    found = cases(volume.GetScene()) if volume and volume.GetScene() else []
    of_phase = (case for case in found if volume in (case.phase, case.phase_filtered))  # it may serve two cases
    return _case_of_swi(volume) or next(of_phase, None)


def _case_of_swi(volume: Any) -> Case | None:
    found = cases(volume.GetScene()) if volume and volume.GetScene() else []
    return next((case for case in found if case.swi is volume), None)


class Case:
    """One case: a text node that holds the review, and the nodes it references. Make it with the functions above.

    The text is the single truth. The lists, labels and colors are made from it, so whatever happens to them,
    `refresh` brings them back.

    Examples
    --------
    >>> case = show_result(folder, swi, phase)  # doctest: +SKIP
    >>> case.decide("R23A41S12", Verdict.ACCEPTED, "AB")  # doctest: +SKIP
    >>> case.review.progress()  # doctest: +SKIP
    (1, 14)
    """

    _updating: ClassVar[set[str]] = set()  # text nodes of the cases whose points are being changed by us

    def __init__(self, node: Any) -> None:
        self.node = node
        self._text = ""
        self._review: Review | None = None
        self._regions: tuple[int, Segmentation | None] = (-1, None)

    @property
    def name(self) -> str:
        return self.review.case

    @property
    def review(self) -> Review:
        """The review as the scene holds it. Change it through the methods here, or call `save` after."""
        text = self.node.GetText() or ""
        if self._review is None or text != self._text:
            self._text, self._review = text, review_of(text)
        return self._review

    @property
    def swi(self) -> Any:
        """Volume node, None when it was removed. So for the nodes below."""
        return self.node.GetNodeReference(SWI)

    @property
    def phase(self) -> Any:
        """Phase as given."""
        return self.node.GetNodeReference(PHASE)

    @property
    def phase_filtered(self) -> Any:
        """Phase as searched (rad, paramagnetic bright), where the result held it: for viewing beside the SWI."""
        return self.node.GetNodeReference(PHASE_FILTERED)

    @property
    def segmentation(self) -> Any:
        """The regions."""
        return self.node.GetNodeReference(REGIONS)

    @property
    def lists(self) -> dict[Marker, Any]:
        """One vtkMRMLMarkupsFiducialNode per marker class; made anew where it was removed."""
        return {marker: self.node.GetNodeReference(marker.value) or self._add_list(marker) for marker in Marker}

    # A reader's actions: each changes the review, writes it to the text node and updates the lists.

    def decide(self, key: str, verdict: Verdict, reader: str = "") -> None:
        self.review.decide(key, verdict, reader)
        self.save()

    def comment(self, key: str, text: str) -> None:
        self.review.comment(key, text)
        self.save()

    def add(self, position_ras_mm: Position, reader: str = "") -> Finding:
        """Add a microbleed that the detector missed; it gets region and size from the images."""
        finding = self.review.add(self.measure(position_ras_mm), reader)
        self.save()
        return finding

    def move(self, key: str, position_ras_mm: Position | None) -> None:
        """Put a point elsewhere; None puts it back to the detector's coordinate."""
        self.review.move(key, None if position_ras_mm is None else self.measure(position_ras_mm))
        self.save()

    def remove(self, key: str) -> None:
        """Take away a finding that a reader added."""
        self.review.remove(key)
        self.save()

    def undo(self) -> str | None:
        """Take the last change back; returns the key it was about, None when there was nothing to undo."""
        key = self.review.undo()
        self.save()
        return key

    def set_threshold(self, probability: float) -> None:
        self.review.threshold = probability
        self.save()

    def set_show_excluded(self, shown: bool) -> None:
        self.review.show_excluded = shown
        self.save()

    def restore(self, findings: Sequence[Finding]) -> tuple[int, int]:
        """Take over an imported review (`report.review_table.read_review`); see `Review.restore`."""
        counts = self.review.restore(findings)
        self.save()
        return counts

    def save(self) -> None:
        """Write the review to the text node and update the lists."""
        self._replace(self.review)
        self.refresh()

    def refresh(self) -> None:
        """Make the lists show the review, such as after a scene was loaded."""
        shown: dict[Marker, list[Finding]] = {marker: [] for marker in Marker}
        for finding in self.review.visible():
            shown[finding.marker].append(finding)
        with self._by_us():
            for marker, node in self.lists.items():
                show_findings(node, shown[marker])

    # Between points and findings

    def key_of(self, list_node: Any, index: int) -> str | None:
        """Key of the finding that a control point shows; None for a point that is none of ours yet."""
        key = key_of(list_node, index)
        return key if key in self.review else None

    def point_of(self, key: str) -> tuple[Any, int] | None:
        """List node and index of the point that shows a finding; None when it is hidden."""
        node = self.lists[self.review[key].marker]
        points = range(node.GetNumberOfControlPoints())
        return next(((node, index) for index in points if key_of(node, index) == key), None)

    def take_points(self, reader: str = "", *, only_placed: bool = False) -> list[str]:
        """Bring what a reader did to the points into the review: dragged, deleted, placed with the mouse.

        Call it when the interaction ends (`vtkMRMLMarkupsNode.PointEndInteractionEvent`, `PointPositionDefinedEvent`,
        `PointRemovedEvent`). Returns the keys that changed. A deleted point of the detector comes back.

        With `only_placed`, nothing but new points is taken, and the review overrules all others: for a case that was
        not watched, whose lists may be older than its review.
        """
        if self.node.GetID() in self._updating:
            return []
        review, changed, seen = self.review, [], set()
        for node in self.lists.values():
            for index in range(node.GetNumberOfControlPoints()):
                key, position = key_of(node, index), position_of(node, index)
                seen.add(key)
                if position is None or (only_placed and key):
                    continue
                if key not in review:
                    finding = review.add(self.measure(position), reader)
                    with self._by_us():
                        name_point(node, index, finding)
                    seen.add(finding.key)
                    changed.append(finding.key)
                elif not is_at(position, review[key]):
                    review.move(key, self.measure(position))
                    changed.append(key)
        missing = [f for f in review.visible() if f.key not in seen]
        for finding in missing:
            if finding.candidate is None and not only_placed:
                review.remove(finding.key)
                changed.append(finding.key)
        if changed or missing:
            self.save()
        elif only_placed:
            self.refresh()
        return changed

    def show_markers(self, shown: bool) -> None:
        """Show or hide all points of this case."""
        for node in self.lists.values():
            node.GetDisplayNode().SetVisibility(shown)

    def show_in_views(self, shown: bool) -> None:
        """Hide all that this case draws over the images, points and regions, or show what was hidden so."""
        roles = (REGIONS, *(marker.value for marker in Marker))
        for node in filter(None, map(self.node.GetNodeReference, roles)):
            display = node.GetDisplayNode()
            if display and shown and display.GetAttribute(HIDDEN):
                display.RemoveAttribute(HIDDEN)
                display.SetVisibility(True)
            elif display and not shown and display.GetVisibility():
                display.SetAttribute(HIDDEN, "1")
                display.SetVisibility(False)

    def show_sub_regions(self, shown: bool) -> None:
        """Show the 13 MARS regions instead of the three groups."""
        if self.segmentation:
            show_sub_regions(self.segmentation, shown)

    def measure(self, position_ras_mm: Position) -> Spot:
        """Region, size and phase evidence at a place, from the segmentation and the images of this case."""
        return measure_spot(
            position_ras_mm,
            swi=to_volume(self.swi) if self.swi else None,
            regions=self._segmentation(),
            phase=to_volume(self.phase_filtered) if self.phase_filtered else None,
        )

    def remove_from_scene(self) -> None:
        """Take the case and all that shows it out of the scene; SWI and phase stay."""
        scene, hierarchy = self.node.GetScene(), _hierarchy(self.node)
        folder = self._folder()
        for role in (REGIONS, PHASE_FILTERED, *(marker.value for marker in Marker)):
            if node := self.node.GetNodeReference(role):
                scene.RemoveNode(node)
        scene.RemoveNode(self.node)
        hierarchy.RemoveItem(folder)

    # Nodes

    def _replace(self, review: Review) -> None:
        self._review, self._text = review, review_text(review)
        self.node.SetText(self._text)

    def _show_images(self, regions: Volume, phase_filtered: Volume | None) -> None:
        scene = self.node.GetScene()
        if not self.segmentation:
            self._own(REGIONS, scene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{self.name} regions"))
        fill_segmentation(self.segmentation, regions.with_array(regions.array.astype(np.uint8)))
        self.segmentation.SetReferenceImageGeometryParameterFromVolumeNode(self.swi)
        if phase_filtered and self.phase_filtered:
            fill_volume(self.phase_filtered, phase_filtered)
        elif phase_filtered:
            self._own(PHASE_FILTERED, add_volume(scene, phase_filtered, f"{self.name} phase filtered"))
        elif self.phase_filtered:
            scene.RemoveNode(self.phase_filtered)

    def _segmentation(self) -> Segmentation | None:
        node = self.segmentation
        if not node:
            return None
        if self._regions[0] != (changed := node.GetSegmentation().GetMTime()):
            regions = regions_of(node)
            self._regions = changed, with_midline(regions) if regions else None
        return self._regions[1]

    def _add_list(self, marker: Marker) -> Any:
        node = add_list(self.node.GetScene(), marker, self.name)
        self._own(marker.value, node)
        with self._by_us():  # else its points would be missing, as if a reader had deleted each
            show_findings(node, [finding for finding in self.review.visible() if finding.marker is marker])
        return node

    def _own(self, role: str, node: Any) -> None:
        """Reference a node and put it into the folder of this case."""
        self.node.SetNodeReferenceID(role, node.GetID())
        _put(node, self._folder())

    def _folder(self) -> int:
        """Item of the folder in the subject hierarchy that holds all of this case but its images."""
        hierarchy = _hierarchy(self.node)
        item = hierarchy.GetItemByDataNode(self.node)
        folder = hierarchy.GetItemParent(item) if item else 0
        if not folder or folder == hierarchy.GetSceneItemID():
            beside = hierarchy.GetItemByDataNode(self.swi) if self.swi else 0
            parent = hierarchy.GetItemParent(beside) if beside else 0
            folder = hierarchy.CreateFolderItem(parent or hierarchy.GetSceneItemID(), f"{self.name} microbleeds")
            _put(self.node, folder)
        return int(folder)

    @contextmanager
    def _by_us(self) -> Iterator[None]:
        """While points are changed from the review, changes of points are none to be taken over."""
        is_outer = self.node.GetID() not in self._updating
        self._updating.add(self.node.GetID())
        try:
            yield
        finally:
            if is_outer:
                self._updating.discard(self.node.GetID())


def _free_name(name: str, scene: Any) -> str:
    """Return the name, or ``SWI 2`` where another case is called SWI: lists and files are named after it."""
    taken = {case.name for case in cases(scene) if case.node.GetText()}
    names = (name if count == 1 else f"{name} {count}" for count in itertools.count(1))
    return next(free for free in names if free not in taken)


def _hierarchy(node: Any) -> Any:
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())


def _put(node: Any, folder: int) -> None:
    """Place a node in the subject hierarchy, which in the application has an item for it already."""
    hierarchy = _hierarchy(node)
    if item := hierarchy.GetItemByDataNode(node):
        hierarchy.SetItemParent(item, folder)
    else:
        hierarchy.CreateItem(folder, node)
