"""The benchmark: its counts, its processes, and what its page says."""

from __future__ import annotations

import sys
from itertools import groupby
from typing import Any

import pytest
import torch
from torch import nn

from CMBDetectorLib.networks.detector import Detector
from Testing.benchmark.convolution import operations
from Testing.benchmark.page import page, slope
from Testing.benchmark.pieces import extrapolated
from Testing.benchmark.process import Run, run

WORK = """
import json, sys, time
say = lambda stage, message: print(json.dumps({"event": "progress", "stage": stage, "message": message}), flush=True)
say("read", "Starting")
time.sleep(0.1)
say("read", "Reading swi.nii.gz")
say("detect", "Searching")
filled = b"x" * 200_000_000
print("noise")
print(json.dumps({"event": "result", "counted": 3}))
"""


def test_operations_of_a_convolution_are_counted_exactly() -> None:
    once = 2 * 27 * 3 * 5  # for one voxel: a multiplication and an addition for each weight
    assert operations(nn.Conv3d(3, 5, 3, padding=1), (1, 3, 8, 6, 4)) == once * 8 * 6 * 4
    assert operations(nn.Conv3d(3, 5, 3, padding=1, stride=2), (1, 3, 8, 6, 4)) == once * 4 * 3 * 2
    assert operations(nn.ConvTranspose3d(3, 5, 2, 2), (1, 3, 4, 4, 4)) == 2 * 8 * 3 * 5 * 4**3


def test_operations_of_the_detector_grow_with_its_input() -> None:
    assert operations(Detector(), (1, 3, 64, 64, 32)) == 2 * operations(Detector(), (1, 3, 64, 64, 16))


@pytest.mark.parametrize("power", [0.5, 1.0, 1.7])
def test_the_slope_of_a_power_law_is_its_exponent(power: float) -> None:
    x = [1e5, 3e5, 2e6, 1e7]
    assert slope(x, [7 * v**power for v in x]) == pytest.approx(power)


def test_a_process_is_timed_by_stages_that_add_up_and_its_memory_is_its_own() -> None:
    took = run(["-c", WORK], first="swi.nii.gz")
    assert list(took.stages) == ["start-up", "read", "detect"]
    assert took.stages["start-up"] > 0.1 > took.stages["read"]
    assert took.wall_s - took.after_start_s == pytest.approx(took.stages["start-up"])
    assert took.answer == {"event": "result", "counted": 3}
    if sys.platform != "win32":
        assert took.peak_gb > 0.2


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="no such case"):
        run(["-c", "raise SystemExit('no such case')"])


def nnunet() -> dict[str, Any]:
    answer = {
        "tile_s": 8.0,
        "tiles": 8,
        "patch": [40, 224, 192],
        "shape": [72, 416, 347],
        "tiles_of_step": {"1.0": 8, "0.5": 27},
        "million_parameters": 30.7,
    }
    stages = {"start-up": 5.0, "read": 2.0, "network": 66.0, "write": 4.0}
    return extrapolated(Run(stages, processor_s=140.0, peak_gb=2.6, answer=answer), mirrored_tile_s=64.0)


def test_the_default_of_nnunet_is_extrapolated_by_its_tiles() -> None:
    figures = nnunet()
    assert figures["fastest_s"] == 72
    assert figures["unmirrored_s"] == 6 + 27 * 8
    assert figures["default_s"] == 6 + 27 * 64


def figures_of_a_run() -> dict[str, Any]:
    def search(seconds: float) -> dict[str, Any]:
        stages = {"start-up": 2.0, "detect": seconds - 1, "report": 1.0}
        took = Run(stages, processor_s=2 * seconds, peak_gb=1.25, answer={})
        return {
            "stages": stages,
            "runs": 3,
            "wall_s": took.wall_s,
            "after_start_s": took.after_start_s,
            "processor_s": took.processor_s,
            "peak_gb": took.peak_gb,
        }

    def networks(peak: float) -> dict[str, Any]:
        return {
            "peak": peak,
            "operations": {"detector": 8e11, "segmenter": 1e11},
            "call_s": {"detector": 4.0, "segmenter": 1.0},
            "stage_s": {"detector": 5.0, "segmenter": 2.0},
            "monai": {"windows": 45, "s": 15.0},
        }

    scans = [
        {"scan_voxels": n**2 * 9e6, "brain_voxels": n * 1e6, "after_start_s": 2.0 * n, "peak_gb": n**0.5}
        for n in (1, 2, 4)
    ]
    return {
        "searches": {
            "512x448x72": {"bfloat16": search(10), "float32": search(20)},
            "256x256x64": {"bfloat16": search(4), "float32": search(8)},
        },
        "scaling": {"finer voxels": scans, "more slices": scans},
        "networks": {"bfloat16": networks(4e11), "float32": networks(2e11)},
        "nnunet": nnunet(),
        "machine": {
            "processor": "Abacus",
            "cores": 2,
            "memory_gb": 16.0,
            "system": "Linux",
            "versions": "Python 3",
            "command": "`make bench`",
        },
    }


def test_the_page_says_ratios_stages_growth_and_share_of_the_peak() -> None:
    lines = page(figures_of_a_run()).splitlines()
    assert "| nnU-Net v2, its default (a) | 173 times as long | 87 times as long |" in lines
    assert "| nnU-Net v2, its fastest setting (c) | 7.2 times as long | 3.6 times as long |" in lines
    assert (
        "| MONAI's sliding window with our network, same format (d) | 3.0 times as long | 3.0 times as long |" in lines
    )
    assert "| writing | 1.0 | 1.0 | 1.0 | 1.0 |" in lines
    assert "| more slices | 1.0 to 4.0 million | 1.00 | 0.50 | 0.50 |" in lines
    assert "| detector, bfloat16 (peak 400 GFLOP/s) | 0.80 | 50% | 40% |" in lines


def test_the_page_of_a_machine_that_computes_in_float32_names_it_once() -> None:
    figures = figures_of_a_run()
    for piece in (figures["networks"], *figures["searches"].values()):
        del piece["bfloat16"]
    text = page(figures)
    assert text.count("ours in float32") == 1
    tables = [
        list(rows) for is_table, rows in groupby(text.splitlines(), lambda line: line.startswith("|")) if is_table
    ]
    assert all(len({row.count("|") for row in rows}) == 1 for rows in tables), "every row has as many columns"
    assert len(tables) == 5


def test_a_network_is_observed_without_being_changed() -> None:
    from Testing.benchmark.observed import Observed

    calls: list[dict[str, Any]] = []
    network = nn.Conv3d(1, 2, 1)
    x = torch.ones(1, 1, 2, 3, 4)
    assert torch.equal(Observed("detector", network, calls)(x), network(x))
    assert [(call["network"], call["shape"]) for call in calls] == [("detector", [1, 1, 2, 3, 4])]
