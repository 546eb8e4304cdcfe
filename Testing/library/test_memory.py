"""Memory: what a search needs, what is free, and what happens where the one exceeds the other."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from CMBDetectorLib import pipeline
from CMBDetectorLib.errors import DeviceMemoryError, OutOfMemoryError
from CMBDetectorLib.memory import available_gb, needed_gb, require_memory_for
from CMBDetectorLib.models import Model
from CMBDetectorLib.request import DetectionRequest
from CMBDetectorLib.volume import Volume, voxels_in, write_volume


def scan(folder: Path, shape: tuple[int, int, int], suffix: str = ".nrrd") -> Path:
    path = folder / f"swi{suffix}"
    write_volume(Volume(np.zeros(shape, np.uint8), np.diag([0.25, 0.25, 0.8, 1])), path)
    return path


def system(folder: Path, *, free_gb: float, group: str = "") -> Path:
    """Files of a Linux that says how much memory is free, and which control group this process is in."""
    (folder / "proc" / "self").mkdir(parents=True)
    (folder / "proc" / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {free_gb * 1e9 / 1024:.0f} kB\n")
    (folder / "proc" / "self" / "cgroup").write_text(group)
    return folder


def control_group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def named(description: str) -> Model:
    return Model(torch.nn.Identity(), {}, torch.device("cpu"), torch.float32, description)  # type: ignore[arg-type]


def test_a_scan_too_large_for_the_free_memory_is_refused_in_numbers_and_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "available_gb", lambda: 4.0)
    path = scan(tmp_path, (8, 8, 8))
    header = path.read_bytes()
    assert b"sizes: 8 8 8" in header
    path.write_bytes(header.replace(b"sizes: 8 8 8", b"sizes: 1024 1024 200"))  # reading it would call it cut short
    with pytest.raises(OutOfMemoryError, match=r"swi\.nrrd has 210 million voxels.* 6\.2 GB.* has 4\.0 GB for it"):
        pipeline.run(DetectionRequest(swi=path, phase=None, out=tmp_path / "out"), lambda *_: None)


def test_a_scan_that_fits_or_a_machine_that_does_not_tell_is_no_reason_to_refuse() -> None:
    voxels = 512 * 448 * 72
    assert 3.6 <= needed_gb(voxels) <= 4.0  # 3.3 GB were resident in float32, of a brain of middle size
    require_memory_for(voxels, "swi.nii", 4.0)
    require_memory_for(1024 * voxels, "swi.nii", None)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_the_header_of_an_image_tells_its_voxels(tmp_path: Path, suffix: str) -> None:
    assert voxels_in(scan(tmp_path, (9, 10, 11), suffix)) == 990


def test_what_is_no_image_is_left_to_reading(tmp_path: Path) -> None:
    (tmp_path / "swi.nii").write_text("no image")
    write_volume(Volume(np.zeros((4, 4, 4), np.uint8), np.eye(4)), tmp_path / "one.nii")
    sitk.WriteImage(sitk.JoinSeries([sitk.ReadImage(str(tmp_path / "one.nii"))] * 3), str(tmp_path / "series.nii"))
    left = ("swi.nii", "missing.nii", ".", "IM0001", f"{'n' * 300}.nii", "series.nii")
    assert [voxels_in(tmp_path / name) for name in left] == [None] * len(left)


def test_this_machine_tells_how_much_is_free_where_it_can() -> None:
    free_gb = available_gb()
    assert 0 < free_gb < 1e5 if free_gb is not None else sys.platform not in ("linux", "win32", "darwin")


def test_the_least_of_machine_and_control_groups_counts_without_the_file_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    root = system(tmp_path, free_gb=8, group="0::/job/step\n")
    assert available_gb(root) == pytest.approx(8, abs=1e-3)
    groups = tmp_path / "sys" / "fs" / "cgroup"
    control_group(groups / "job" / "step", memory__max="max\n", memory__current="1", memory__stat="")
    assert available_gb(root) == pytest.approx(8, abs=1e-3)
    used = {"memory__current": "2000000000", "memory__stat": "anon 5\ninactive_file 500000000\n"}
    control_group(groups / "job", memory__max="4000000000", **used)
    assert available_gb(root) == pytest.approx(2.5, abs=1e-3)


def test_the_older_control_groups_count_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    root = system(tmp_path, free_gb=8, group="3:cpuset:/\n4:memory:/job\n")
    control_group(
        tmp_path / "sys" / "fs" / "cgroup" / "memory" / "job",
        memory__limit_in_bytes="3000000000",
        memory__usage_in_bytes="2000000000",
        memory__stat="total_inactive_file 0\n",
    )
    assert available_gb(root) == pytest.approx(1, abs=1e-3)


def test_a_system_that_says_nothing_is_not_guessed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    assert available_gb(tmp_path) is None


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="Windows says what is free")
def test_where_only_what_is_built_in_is_known_that_is_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    free_gb = available_gb()
    monkeypatch.setattr("sys.platform", "darwin")
    built_in_gb = available_gb()
    assert built_in_gb is not None and free_gb is not None and built_in_gb >= free_gb


@pytest.mark.parametrize(
    "problem",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("The operation failed in the TorchScript interpreter.\nRuntimeError: CUDA out of memory."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        DeviceMemoryError("The memory of the GPU does not suffice."),
    ],
)
def test_where_the_gpu_is_too_small_the_cpu_goes_on_and_that_is_announced(problem: Exception) -> None:
    gpu, cpu = named("gpu"), named("cpu")
    told: list[str] = []

    def step(model: Model) -> str:
        if model is gpu:
            raise problem
        return "found"

    assert pipeline.where_it_fits(step, gpu, lambda: cpu, told.append) == ("found", cpu)
    assert told == ["The memory of the GPU did not suffice, so the CPU did the work."]


def test_another_failure_is_not_taken_for_want_of_memory() -> None:
    def step(model: Model) -> str:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        pipeline.where_it_fits(step, named("gpu"), lambda: pytest.fail("loaded"), pytest.fail)


def test_where_the_gpu_suffices_no_other_network_is_loaded() -> None:
    gpu = named("gpu")
    assert pipeline.where_it_fits(lambda model: 1, gpu, lambda: pytest.fail("loaded"), pytest.fail) == (1, gpu)
