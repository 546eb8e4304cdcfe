"""The pieces of the benchmark: each runs its programs one after another and returns figures for the page."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from Testing.benchmark.process import ROOT, START_UP, Run, run

Figures = dict[str, Any]

FOLDER = ROOT / "build" / "bench"
CASES = FOLDER / "cases"
LARGE, SMALL = "512x448x72", "256x256x64"
FINER = ("256x224x72", "341x299x72", "427x373x72", "512x448x72", "640x560x72")
FEWER_SLICES = ("512x448x24", "512x448x36", "512x448x54", "512x448x72")
REPEATS = 3
OWN = "own"  # the number format that the machine would take


@dataclass(frozen=True)
class Search:
    """One search of ours: what its process took, and what it searched."""

    run: Run
    number_format: str
    scan_voxels: int
    brain_voxels: float


def search(case: str, number_format: str = OWN, observed: bool = False, force: bool = False) -> Search:
    """Search a case on the CPU by the command line, in a number format."""
    scan, out = CASES / case, FOLDER / "result"
    program = ["-m", "CMBDetectorLib"]
    if observed or number_format != OWN:
        program = [
            "-m",
            "Testing.benchmark.observed",
            number_format,
            str(FOLDER / "calls.json"),
            str(FOLDER / "input.npy"),
        ]
    images = ["--swi", str(scan / "swi.nii.gz"), "--phase", str(scan / "phase.nii.gz")]
    options = ["--out", str(out), "--overwrite", "--device", "cpu", "--json-progress", *(["--force"] if force else [])]
    # The first stage begins when the networks are loaded and the first file is read.
    took = run([*program, "detect", *images, *options], first="swi.nii.gz")
    record = json.loads((out / "candidates.json").read_text())
    voxels, voxel_mm3 = _grid(case)
    device = record["provenance"]["device"]
    return Search(took, device.split(", ")[1], voxels, record["searched_ml"] * 1000 / voxel_mm3)


def _grid(case: str) -> tuple[int, float]:
    """Number of voxels of a case, and the volume of one, mm3."""
    grid = json.loads((CASES / case / "grid.json").read_text())
    return math.prod(grid["size"]), math.prod(grid["spacing_mm"])


def searches(repeats: int = REPEATS) -> Figures:
    """Time and memory of both cases, in the machine's own format and in float32: medians of several runs."""
    figures: Figures = {}
    for case in (LARGE, SMALL):
        figures[case] = {}
        for number_format in (OWN, "float32"):
            if number_format in figures[case]:
                continue  # the machine's own
            found = [search(case, number_format) for _ in range(repeats)]
            figures[case][found[0].number_format] = _median([s.run for s in found]) | {
                "scan_voxels": found[0].scan_voxels,
                "brain_voxels": found[0].brain_voxels,
            }
    return figures


def _median(runs: Sequence[Run]) -> Figures:
    stages = {stage: statistics.median(r.stages[stage] for r in runs) for stage in runs[0].stages}
    return {
        "stages": stages,
        "runs": len(runs),
        "wall_s": statistics.median(r.wall_s for r in runs),
        "after_start_s": statistics.median(r.after_start_s for r in runs),
        "processor_s": statistics.median(r.processor_s for r in runs),
        "peak_gb": max(r.peak_gb for r in runs),
    }


def scaling() -> Figures:
    """Time and memory for the same head on finer grids, and for fewer slices of it."""
    figures: Figures = {}
    for name, cases in (("finer voxels", FINER), ("more slices", FEWER_SLICES)):
        figures[name] = []
        for case in cases:
            found = search(case, force=True)  # few slices do not cover a head
            figures[name].append(
                {
                    "case": case,
                    "scan_voxels": found.scan_voxels,
                    "brain_voxels": found.brain_voxels,
                    "after_start_s": found.run.after_start_s,
                    "processor_s": found.run.processor_s,
                    "peak_gb": found.run.peak_gb,
                }
            )
    return figures


def networks(with_monai: bool = True) -> Figures:
    """What share of the machine's peak our networks reach, and MONAI's sliding window with the detector."""
    figures: Figures = {}
    for number_format in (OWN, "float32"):
        if number_format in figures:
            continue
        found = search(LARGE, number_format, observed=True)
        calls = json.loads((FOLDER / "calls.json").read_text())
        reached = run(["-m", "Testing.benchmark.convolution", found.number_format, str(FOLDER / "calls.json")]).answer
        entry = {
            "peak": reached["peak"],
            "operations": reached["operations"],
            "call_s": {n: sum(c["s"] for c in calls if c["network"] == n) for n in reached["operations"]},
            "stage_s": {"detector": found.run.stages["detect"], "segmenter": found.run.stages["localize"]},
        }
        if with_monai:
            window = run(["-m", "Testing.benchmark.sliding_window", str(FOLDER / "input.npy"), found.number_format])
            entry["monai"] = {
                "windows": window.answer["windows"],
                "s": window.after_start_s,
                "processor_s": window.processor_s,
                "peak_gb": window.peak_gb,
            }
        figures[found.number_format] = entry
    return figures


def nnunet() -> Figures:
    """nnU-Net on the large case: its fastest setting measured, its default extrapolated from one mirrored tile."""
    folder = FOLDER / "nnunet"
    environment = {f"nnUNet_{kind}": str(folder / kind) for kind in ("raw", "preprocessed", "results")}

    def program(*arguments: str) -> Run:
        return run(["-m", "Testing.benchmark.nnunet", *arguments], environment=environment)

    program("plan", str(CASES / LARGE), str(folder))
    fastest = program("predict", str(CASES / LARGE), str(folder))
    mirrored = program("mirrored", str(CASES / LARGE), str(folder), "1").answer
    return extrapolated(fastest, mirrored["tile_s"])


def extrapolated(fastest: Run, mirrored_tile_s: float) -> Figures:
    """Times of nnU-Net's settings: the default takes more tiles, and eight passes for each."""
    answer = fastest.answer
    apart_from_network_s = fastest.after_start_s - fastest.stages["network"]
    tiles = answer["tiles_of_step"]["0.5"]
    return answer | {
        "mirrored_tile_s": mirrored_tile_s,
        "fastest_s": fastest.after_start_s,
        "unmirrored_s": apart_from_network_s + tiles * answer["tile_s"],
        "default_s": apart_from_network_s + tiles * mirrored_tile_s,
        "start_s": fastest.stages[START_UP],
        "processor_s": fastest.processor_s,
        "peak_gb": fastest.peak_gb,
    }


PIECES: dict[str, Callable[[], Figures]] = {
    "searches": searches,
    "scaling": scaling,
    "networks": networks,
    "nnunet": nnunet,
}


def make_cases() -> None:
    """Resample the sample scan, in a process of its own: a small parent, as its size counts for its children."""
    sample = next((ROOT / "Resources" / "SampleData").glob("*/truth.json")).parent
    run(["-m", "Testing.benchmark.cases", str(sample), str(CASES)])
