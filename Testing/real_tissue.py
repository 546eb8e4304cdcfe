"""What the bundled detector does in real tissue: a crop of a real scan, as it is and with known sources put into it.

    python Testing/real_tissue.py CROP [PICTURE]

CROP is a folder with ``Mag.nii.gz`` and ``Phase.nii.gz``: 24 x 24 x 41 mm of a multi-echo gradient echo at 7 T, without
known microbleeds (github.com/korbinian90/MriResearchTools.jl, test/data/small, commit 71e1a55, MIT). Nobody called its
lesions, so the sources that are searched for are put in by `CMBDetectorLib.simulation.implant`: veins, sulci, noise and
phase are real, the lesions are not. Which sign its phase has, neither the files nor the veins tell, so it is taken both
ways. Prints the figures of docs/models.md; PICTURE shows some of the scans searched.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
import SimpleITK as sitk
import torch
from matplotlib import pyplot as plt
from matplotlib.patches import Circle

from CMBDetectorLib.detect import Detection, detect
from CMBDetectorLib.evaluation.matching import FALSE, match
from CMBDetectorLib.evidence import phase_evidence
from CMBDetectorLib.models import Model, load_model
from CMBDetectorLib.phase import prepare
from CMBDetectorLib.pipeline import threshold
from CMBDetectorLib.preprocessing import detector_input
from CMBDetectorLib.request import Settings
from CMBDetectorLib.simulation.acquisition import homodyne, phase_mask
from CMBDetectorLib.simulation.implant import choose_places, implant, microbleeds_in
from CMBDetectorLib.simulation.protocols import radians_per_ppm
from CMBDetectorLib.simulation.sources import Source
from CMBDetectorLib.training.implants import calcification
from CMBDetectorLib.volume import Volume

FIELD_T = 7.0
ECHOES_MS = {1: 8.0, 2: 12.0}  # as strong as 19 and 28 ms at 3 T; the first echo (4 ms) is too short for SWI
SLICES_MM = (1, 2, 3)
FILTER_MM, MASK_POWER = 4.0, 4
MIRRORED = 16  # voxels beyond the edges, so that the filter does not join opposite sides
RIM, DEEP_MM = 2, 3.0  # not searched (voxels), and where nothing is put in, along the edges
EACH = 3  # sources at a time
SIGNS = (1, -1)
SEEDS = 20
FLOOR = 0.02
SIZES_MM = {"2-3 mm": (2, 3), "3-5 mm": (3, 5), "5 mm or more": (5, np.inf)}
PICTURED, WINDOWS = 5, ((0, 1.6), (0, 1.6), (-2, 2))

Sought = Callable[[Volume, Volume, int, np.random.Generator], list[Source]]


@dataclass(frozen=True, eq=False)
class Scan:
    """SWI and phase (rad, paramagnetic taken for positive) of one echo in slices of one thickness."""

    swi: Volume
    phase: Volume
    echo_time_ms: float
    slice_mm: int


def scans(folder: Path) -> Iterator[Scan]:
    """Every echo in slices of every thickness, averaged from those of 1 mm as complex signals, with either sign."""
    magnitude, phase = (sitk.ReadImage(str(folder / f"{name}.nii.gz")) for name in ("Mag", "Phase"))
    assert np.allclose(np.reshape(magnitude.GetDirection(), (4, 4))[:3, :3], np.diag([-1, -1, 1])), "axes R, A, S"
    angle = sitk.GetArrayFromImage(phase).astype(np.float64)
    angle *= np.pi / np.abs(angle).max()
    signal = (sitk.GetArrayFromImage(magnitude) * np.exp(1j * angle)).transpose(0, 3, 2, 1)  # echo, R, A, S
    spacing_mm = magnitude.GetSpacing()[:3]
    for sign, (echo, echo_time_ms), thick in product(SIGNS, ECHOES_MS.items(), SLICES_MM):
        whole = signal[echo][..., : signal.shape[3] // thick * thick]
        averaged = whole.reshape(*whole.shape[:2], -1, thick).mean(axis=3)
        padded = np.pad(averaged, ((MIRRORED, MIRRORED), (MIRRORED, MIRRORED), (0, 0)), mode="reflect")
        image = torch.from_numpy((padded if sign > 0 else padded.conj()).astype(np.complex64))
        filtered = homodyne(image, FILTER_MM, spacing_mm[:2])
        swi = image.abs() * phase_mask(filtered) ** MASK_POWER
        inner = slice(MIRRORED, -MIRRORED)
        ijk_to_ras = np.diag([*spacing_mm[:2], spacing_mm[2] * thick, 1.0])
        yield Scan(
            Volume((swi / swi.median()).numpy()[inner, inner], ijk_to_ras, "swi"),
            Volume(filtered.numpy()[inner, inner], ijk_to_ras, "phase"),
            echo_time_ms,
            thick,
        )


def searched(scan: Scan) -> Volume:
    """All of the crop but its rim."""
    inside = np.zeros(scan.swi.array.shape, bool)
    inside[RIM:-RIM, RIM:-RIM] = True
    return scan.swi.with_array(inside)


def prepared(scan: Scan) -> Volume:
    """The phase as the detector and the phase evidence read it."""
    return prepare(scan.phase, scan.swi, searched(scan), "bright").volume


def search(model: Model, scan: Scan, phase: bool) -> list[Detection]:
    network_input = detector_input(scan.swi, prepared(scan) if phase else None, searched(scan))
    return detect(model, network_input, FLOOR, lambda *_: None)


def calcifications(swi: Volume, tissue: Volume, count: int, random: np.random.Generator) -> list[Source]:
    return [calcification(center, random) for center, _ in choose_places(swi, tissue, count, random)]


SOUGHT: tuple[tuple[Sought, str], ...] = ((microbleeds_in, "lesions"), (calcifications, "mimics"))


def put_in(scan: Scan, sought: Sought, seed: int) -> tuple[Scan, dict[str, list[dict[str, Any]]]]:
    """The scan with random sources, and the truth of them."""
    deep = np.ceil(DEEP_MM / scan.swi.spacing_mm).astype(int)
    tissue = np.zeros(scan.swi.array.shape, np.uint8)
    tissue[tuple(slice(n, -n) for n in deep)] = 9  # some lobe
    done = implant(
        scan.swi,
        scan.phase,
        sought(scan.swi, scan.swi.with_array(tissue), EACH, np.random.default_rng(seed)),
        rad_per_ppm=radians_per_ppm(FIELD_T, scan.echo_time_ms),
        paramagnetic_sign=1,
        mask_power=MASK_POWER,
    )
    return replace(scan, swi=done.swi, phase=done.phase or scan.phase), done.truth


def main(folder: Path, picture: Path | None) -> None:
    model = load_model("detector", device="cpu")
    every = list(scans(folder))
    for phase in (True, False):
        untouched = [d for scan in every for d in search(model, scan, phase)]
        strongest = max((d.probability for d in untouched), default=0.0)
        name = "with phase" if phase else "SWI alone"
        print(f"Nothing put in, {name}: strongest candidate of {len(every)} scans {strongest:.2f}")
    print("\n| | slices |", " | ".join(SIZES_MM), "| all | calcifications reported | false, in searches |")
    print("|---|---|" + "---:|" * (len(SIZES_MM) + 3))
    for phase, thick in product((True, False), SLICES_MM):
        print(row(model, [scan for scan in every if scan.slice_mm == thick], phase))
    print("\nPhase evidence:")
    for sought, kind in SOUGHT:
        said = [
            phase_evidence(entry["center_ras_mm"], entry["diameter_mm"], prepared(shown))
            for shown, truth in (put_in(scan, sought, seed) for scan, seed in product(every, range(SEEDS)))
            for entry in truth[kind]
        ]
        print(f"{kind}:", ", ".join(f"{said.count(evidence)} {evidence.value}" for evidence in sorted(set(said))))
    if picture:
        draw(model, every, picture)


def row(model: Model, some: Sequence[Scan], phase: bool) -> str:
    """A row of the table: microbleeds found by size, calcifications reported, and what was reported elsewhere."""
    at = threshold(Settings(), model, phase)
    reported: dict[str, list[tuple[float, bool]]] = {kind: [] for _, kind in SOUGHT}
    elsewhere = searches = 0
    for (sought, kind), scan, seed in product(SOUGHT, some, range(SEEDS)):
        shown, truth = put_in(scan, sought, seed)
        detections = search(model, shown, phase)
        matches = match(
            [d.probability for d in detections],
            [d.center_ras_mm for d in detections],
            [entry["center_ras_mm"] for entry in truth[kind]],
            [entry["center_ras_mm"] for entry in truth["faint"]],
        ).at_least(at)
        searches += 1
        elsewhere += int((matches.lesion == FALSE).sum())
        reported[kind] += [(e["diameter_mm"], n in matches.lesion) for n, e in enumerate(truth[kind])]
    bleeding = reported["lesions"]
    by_size = [[found for mm, found in bleeding if low <= mm < high] for low, high in SIZES_MM.values()]
    counts = [*by_size, [found for _, found in bleeding], [found for _, found in reported["mimics"]]]
    cells = [f"{sum(found)} of {len(found)}" for found in counts]
    name = "phase" if phase else "SWI alone"
    return f"| {name} | {some[0].slice_mm} mm | {' | '.join(cells)} | {elsewhere} in {searches} |"


def draw(model: Model, every: Sequence[Scan], path: Path) -> None:
    """What the first seeds put into slices of 2 mm of the last echo: before, after with what is found, and phase."""
    scan = [scan for scan in every if scan.slice_mm == 2][len(ECHOES_MS) - 1]
    at = threshold(Settings(), model, True)
    half_mm = scan.swi.spacing_mm / 2
    edges = scan.swi.array.shape * scan.swi.spacing_mm - half_mm
    extent = (-half_mm[0], edges[0], -half_mm[1], edges[1])
    figure, columns = plt.subplots(3, PICTURED, figsize=(2.2 * PICTURED, 6.6), layout="constrained")
    for seed, panels in enumerate(columns.T):
        shown, truth = put_in(scan, microbleeds_in, seed)
        found = [d for d in search(model, shown, phase=True) if d.probability >= at]
        level = int(np.rint(scan.swi.ijk_of(truth["lesions"][0]["center_ras_mm"])[2]))
        for axes, volume, (low, high) in zip(panels, (scan.swi, shown.swi, shown.phase), WINDOWS, strict=True):
            axes.imshow(volume.array[:, :, level].T, cmap="gray", vmin=low, vmax=high, origin="lower", extent=extent)
            axes.set_axis_off()
        for detection in found:
            r, a, s = detection.center_ras_mm
            if abs(s - scan.swi.ras_of((0, 0, level))[2]) <= scan.slice_mm:
                panels[1].add_patch(Circle((r, a), detection.diameter_mm, fill=False, color="orange"))
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
