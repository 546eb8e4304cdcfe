"""nnU-Net v2 on the case: its own planner, network (random weights) and predictor, in a process of its own.

``plan CASE FOLDER`` makes a data set of the case and lets nnU-Net plan. ``predict CASE FOLDER`` runs its fastest
setting from file to file. ``mirrored CASE FOLDER TILES`` runs its default as far as so many tiles: all take too long.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import SimpleITK as sitk
import torch

from Testing.benchmark.process import say

NAME = "Dataset001_Microbleeds"
COPIES = 2
PLAIN, DEFAULT = 1.0, 0.5  # tile_step_size: tiles side by side, and nnU-Net's default
AXES = (0, 1, 2)  # that nnU-Net mirrors by default


def microbleeds(case: Path) -> sitk.Image:
    """Label map of the case's microbleeds: balls of their diameters."""
    swi = sitk.ReadImage(str(case / "swi.nii.gz"))
    labels = sitk.Image(swi.GetSize(), sitk.sitkUInt8)
    labels.CopyInformation(swi)
    for lesion in json.loads((case / "truth.json").read_text())["lesions"]:
        r, a, s = lesion["center_ras_mm"]
        middle = swi.TransformPhysicalPointToIndex((-r, -a, s))
        reach = [math.ceil(lesion["diameter_mm"] / 2 / mm) for mm in swi.GetSpacing()]
        for i in range(-reach[0], reach[0] + 1):
            for j in range(-reach[1], reach[1] + 1):
                for k in range(-reach[2], reach[2] + 1):
                    mm = math.hypot(*(n * step for n, step in zip((i, j, k), swi.GetSpacing(), strict=True)))
                    index = [m + n for m, n in zip(middle, (i, j, k), strict=True)]
                    inside = all(0 <= n < size for n, size in zip(index, swi.GetSize(), strict=True))
                    if inside and mm <= lesion["diameter_mm"] / 2:
                        labels[index] = 1
    return labels


def plan(case: Path, folder: Path) -> None:
    """Let nnU-Net plan for copies of a case, as it does by default."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments

    raw = folder / "raw" / NAME
    for kind in ("imagesTr", "labelsTr"):
        (raw / kind).mkdir(parents=True, exist_ok=True)
    for kind in ("preprocessed", "results"):
        (folder / kind / NAME).mkdir(parents=True, exist_ok=True)
    labels = microbleeds(case)
    for copy in range(COPIES):
        for channel, name in enumerate(("swi", "phase")):
            link = raw / "imagesTr" / f"case_{copy}_{channel:04}.nii.gz"
            link.unlink(missing_ok=True)
            link.symlink_to(case / f"{name}.nii.gz")
        sitk.WriteImage(labels, str(raw / "labelsTr" / f"case_{copy}.nii.gz"))
    description = {
        "channel_names": {"0": "SWI", "1": "phase"},
        "labels": {"background": 0, "microbleed": 1},
        "numTraining": COPIES,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(description))
    extract_fingerprints([1], num_processes=1)
    plan_experiments([1])


def predictor(folder: Path, mirroring: bool) -> Any:
    """nnU-Net's predictor on the CPU, with a network of the plans and random weights."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(str(folder / "preprocessed" / NAME / "nnUNetPlans.json"))
    configuration = plans.get_configuration("3d_fullres")
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        2,
        2,
        deep_supervision=False,
    )
    step = DEFAULT if mirroring else PLAIN
    made = nnUNetPredictor(tile_step_size=step, use_mirroring=mirroring, device=torch.device("cpu"), allow_tqdm=False)
    description = json.loads((folder / "raw" / NAME / "dataset.json").read_text())
    made.manual_initialization(
        network, plans, configuration, [network.state_dict()], description, "nnUNetTrainer", AXES
    )
    return made


def timed(function: Callable[..., Any], seconds: list[float], stop: int = sys.maxsize) -> Callable[..., Any]:
    """A function that notes how long each call takes, and raises `KeyboardInterrupt` after so many."""

    def call(*arguments: Any) -> Any:
        began = time.perf_counter()
        result = function(*arguments)
        seconds.append(time.perf_counter() - began)
        if len(seconds) == stop:
            raise KeyboardInterrupt
        return result

    return call


def predict(case: Path, folder: Path, mirroring: bool, tiles: int = sys.maxsize) -> dict[str, Any]:
    """Predict the case from file to file, or as far as so many tiles; what was planned and how long a tile took."""
    torch.set_num_threads(os.cpu_count() or 1)  # as nnUNetv2_predict -device cpu does
    made = predictor(folder, mirroring)
    seconds: list[float] = []
    made._internal_maybe_mirror_and_predict = timed(made._internal_maybe_mirror_and_predict, seconds, tiles)
    shapes: list[tuple[int, ...]] = []
    network = made.predict_logits_from_preprocessed_data

    def announced(data: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(data.shape[1:]))
        say("network")
        logits = network(data)
        say("write")
        return logits

    made.predict_logits_from_preprocessed_data = announced
    say("read")
    files = [[str(case / "swi.nii.gz"), str(case / "phase.nii.gz")]]
    try:
        made.predict_from_files_sequential(files, [str(folder / "prediction")])
    except KeyboardInterrupt:
        if len(seconds) < tiles:
            raise
    return {"tile_s": statistics.median(seconds), "tiles": len(seconds), **planned(made, shapes[0])}


def planned(made: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    """Patch, network and number of tiles of a scan, for both step sizes."""
    from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

    patch = tuple(made.configuration_manager.patch_size)
    padded = tuple(max(n, p) for n, p in zip(shape, patch, strict=True))
    count = {
        str(step): math.prod(map(len, compute_steps_for_sliding_window(padded, patch, step)))
        for step in (PLAIN, DEFAULT)
    }
    parameters = sum(p.numel() for p in made.network.parameters())
    return {"patch": patch, "shape": shape, "tiles_of_step": count, "million_parameters": parameters / 1e6}


if __name__ == "__main__":
    what, case, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if what == "plan":
        plan(case, folder)
    else:
        tiles = int(sys.argv[4]) if len(sys.argv) > 4 else sys.maxsize
        print(json.dumps(predict(case, folder, mirroring=what == "mirrored", tiles=tiles)))
