"""Cases made ready once for every network of a comparison: segmented, phase prepared, the detector's input on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from CMBDetectorLib.evaluation.folders import WITH_PHASE, case_folders, true_regions
from CMBDetectorLib.evaluation.overlap import compare
from CMBDetectorLib.localize import Segmentation
from CMBDetectorLib.models import Model
from CMBDetectorLib.phase import prepare
from CMBDetectorLib.preflight import check
from CMBDetectorLib.preprocessing import NetworkInput, detector_input
from CMBDetectorLib.segment import segment
from CMBDetectorLib.simulation.truth import truth_of
from CMBDetectorLib.training.data import is_fresh
from CMBDetectorLib.volume import Volume, read_volume

Progress = Callable[[str, float, str], None]


@dataclass(frozen=True)
class PreparedCase:
    """One case; its arrays stay on disk until they are asked for.

    Attributes
    ----------
    name : str
    truth : dict
        Content of ``truth.json``.
    dice : dict of float
        Overlap of the segmented regions with the true ones.
    folder : Path
        Where the arrays lie.
    """

    name: str
    truth: dict[str, Any]
    dice: dict[str, float]
    folder: Path

    def network_input(self) -> NetworkInput:
        """Give what the detector reads; float16, mapped from the file."""
        matrix = np.array(_known(self.folder)["input_to_ras"])
        return NetworkInput(np.load(self.folder / "input.npy", mmap_mode="r"), matrix)

    def segmentation(self) -> Segmentation:
        """Give the regions that the segmenter found."""
        known = _known(self.folder)
        with np.load(self.folder / "regions.npz") as arrays:
            scan, coarse = np.array(known["scan_to_ras"]), np.array(known["left_to_ras"])
            return Segmentation(
                Volume(arrays["regions"], scan), Volume(arrays["brain"], scan), Volume(arrays["left"], coarse)
            )


def prepare_cases(cases_dir: Path, cache: Path, segmenter: Model, progress: Progress) -> list[PreparedCase]:
    """Prepare, as the search does, the cases below a folder that the cache lacks; phase polarity is measured.

    A case is prepared again when it, or the segmenter, has changed. After a change of preprocessing, empty the cache.
    """
    folders = case_folders(cases_dir, needed=WITH_PHASE)
    prepared = []
    for n, (name, folder) in enumerate(folders.items()):
        progress("prepare", n / len(folders), name)
        place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]  # two folders may share their names
        made = cache / f"{Path(cases_dir).name}_{folder.name}_{place}"
        record = made / "case.json"
        if not is_fresh(record, folder) or _known(made)["segmenter"] != segmenter.manifest["sha256"]:
            _prepare(folder, made, segmenter)
        prepared.append(PreparedCase(name, truth_of(folder), _known(made)["dice"], made))
    return prepared


def _prepare(folder: Path, made: Path, segmenter: Model) -> None:
    """Write the arrays of one case, and last its record."""
    true = true_regions(folder, swi := read_volume(folder / "swi.nii.gz"))
    inputs = check(swi, read_volume(folder / "phase.nii.gz"), force=True)
    assert inputs.phase is not None
    found = segment(segmenter, inputs.swi, lambda *_: None)
    phase = prepare(inputs.phase, inputs.swi, found.brain)
    seen = detector_input(inputs.swi, phase.volume if phase.sign_is_known else None, found.brain)
    made.mkdir(parents=True, exist_ok=True)
    np.save(made / "input.npy", seen.array.astype(np.float16))
    np.savez_compressed(
        made / "regions.npz", regions=found.regions.array, brain=found.brain.array, left=found.left.array
    )
    record = {
        "segmenter": segmenter.manifest["sha256"],
        "input_to_ras": seen.ijk_to_ras.tolist(),
        "scan_to_ras": found.regions.ijk_to_ras.tolist(),
        "left_to_ras": found.left.ijk_to_ras.tolist(),
        "dice": compare(found.regions.array, true.array)[0],
    }
    (made / "case.json").write_text(json.dumps(record), encoding="utf-8")


def _known(made: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((made / "case.json").read_text(encoding="utf-8"))
    return content
