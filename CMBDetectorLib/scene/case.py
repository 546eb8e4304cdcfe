"""One case in the scene: its review as text, and everything that shows it, found again by node references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from CMBDetectorLib.result import Record
from CMBDetectorLib.review import Finding, Marker, Review, Spot, Verdict


def show_result(folder: Path, swi: Any, phase: Any = None, *, name: str = "", keep_vanishing: bool = True) -> Case:
    """Bring the folder that the worker wrote into the scene of `swi`.

    Where the SWI has a case already, the run is merged into its review (`Review.merge`); ask about
    `vanishing(folder, swi)` before. Otherwise a new case is made. All or nothing: on failure the scene is as before.

    Parameters
    ----------
    folder : Path
        A result, written `with_images` if the filtered phase is to be shown.
    swi, phase : vtkMRMLScalarVolumeNode
        What was searched; `phase` may be None.
    name : str
        Of the case; that of the SWI node when empty.
    """
    raise NotImplementedError


def vanishing(folder: Path, swi: Any) -> tuple[Finding, ...]:
    """Findings that a reader touched and that the run in `folder` did not find again; empty for a new case."""
    raise NotImplementedError


def cases(scene: Any) -> list[Case]:
    """Every case in a scene, also after it was loaded from a file."""
    raise NotImplementedError


def case_of(volume: Any) -> Case | None:
    """The case whose SWI or phase (as given or as filtered) is this node."""
    raise NotImplementedError


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

    def __init__(self, node: Any) -> None:
        self.node = node

    @property
    def name(self) -> str:
        raise NotImplementedError

    @property
    def review(self) -> Review:
        """The review as the scene holds it. Change it through the methods here, or call `save` after."""
        raise NotImplementedError

    @property
    def swi(self) -> Any:
        """Volume node, None when it was removed. So for the nodes below."""
        raise NotImplementedError

    @property
    def phase(self) -> Any:
        """Phase as given."""
        raise NotImplementedError

    @property
    def phase_filtered(self) -> Any:
        """Phase as searched (rad, paramagnetic bright), where the result held it: for viewing beside the SWI."""
        raise NotImplementedError

    @property
    def segmentation(self) -> Any:
        """The regions."""
        raise NotImplementedError

    @property
    def lists(self) -> dict[Marker, Any]:
        """One vtkMRMLMarkupsFiducialNode per marker class."""
        raise NotImplementedError

    # A reader's actions: each changes the review, writes it to the text node and updates the lists it concerns.

    def decide(self, key: str, verdict: Verdict, reader: str = "") -> None: ...

    def comment(self, key: str, text: str) -> None: ...

    def add(self, position_ras_mm: tuple[float, float, float], reader: str = "") -> Finding:
        """Add a microbleed that the detector missed; it gets region and size from the images."""
        raise NotImplementedError

    def move(self, key: str, position_ras_mm: tuple[float, float, float] | None) -> None:
        """Put a point elsewhere; None puts it back to the detector's coordinate."""

    def remove(self, key: str) -> None: ...

    def undo(self) -> str | None: ...

    def set_threshold(self, probability: float) -> None: ...

    def set_show_excluded(self, shown: bool) -> None: ...

    def restore(self, findings: list[Finding]) -> tuple[int, int]:
        """Take over an imported review (`report.review_table.read_review`); see `Review.restore`."""
        raise NotImplementedError

    def save(self) -> None:
        """Write the review to the text node and update the lists."""

    def refresh(self) -> None:
        """Make the lists from the review anew, such as after a scene was loaded."""

    # Between points and findings

    def key_of(self, list_node: Any, index: int) -> str | None:
        """Key of the finding that a control point shows; None for a point that is none of ours yet."""
        raise NotImplementedError

    def point_of(self, key: str) -> tuple[Any, int] | None:
        """List node and index of the point that shows a finding; None when it is hidden."""
        raise NotImplementedError

    def take_points(self, reader: str = "") -> list[str]:
        """Bring what a reader did to the points into the review: dragged, deleted, placed with the mouse.

        Call it when the interaction ends (`vtkMRMLMarkupsNode.PointEndInteractionEvent`, `PointPositionDefinedEvent`,
        `PointRemovedEvent`). Returns the keys that changed. A deleted point of the detector comes back.
        """
        raise NotImplementedError

    def show_markers(self, shown: bool) -> None:
        """Show or hide all points of this case."""

    def show_sub_regions(self, shown: bool) -> None:
        """Show the 13 MARS regions instead of the three groups."""

    def measure(self, position_ras_mm: tuple[float, float, float]) -> Spot:
        """Region, size and phase evidence at a place, from the segmentation and the images of this case."""
        raise NotImplementedError

    def remove_from_scene(self) -> None:
        """Take the case and all that shows it out of the scene; SWI and phase stay."""


def new_record_of(folder: Path) -> Record:
    """Read what a run said; see `report.record.read_record`."""
    raise NotImplementedError
