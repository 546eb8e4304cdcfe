"""Volume nodes as files that the worker reads, and as `volume.Volume`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from CMBDetectorLib.volume import Acquisition, Volume


def write_for_worker(node: Any, folder: Path) -> Path:
    """Write a volume node into a folder, named after the node, with what its DICOM files say in a sidecar beside it.

    Parent transforms are applied when they are linear; others are refused (`InputError`). Raises `OutputError` when it
    cannot be written. Returns the image file: what `request.DetectionRequest` takes.
    """
    raise NotImplementedError


def to_volume(node: Any) -> Volume:
    """A volume node as array and geometry (RAS, mm), with a linear parent transform applied; what preflight takes."""
    raise NotImplementedError


def acquisition_of(node: Any) -> Acquisition | None:
    """What the scanner wrote about the DICOM series behind a node; None where that is not known."""
    raise NotImplementedError


def add_volume(scene: Any, volume: Volume, name: str) -> Any:
    """A new scalar volume node that holds a `Volume`."""
    raise NotImplementedError
