"""The way through: two files in, one `Result` out. Knows no Slicer and no screen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import SimpleITK as sitk
import torch

from CMBDetectorLib import __version__
from CMBDetectorLib.candidate import Candidate
from CMBDetectorLib.detect import Detection, detect
from CMBDetectorLib.errors import DeviceMemoryError, InputError, ModelError, is_want_of_device_memory
from CMBDetectorLib.evidence import apparent_volume_mm3, phase_evidence
from CMBDetectorLib.fluid import IN_FLUID, Brightness, lies_in_fluid, measure_brightness
from CMBDetectorLib.localize import Segmentation, locate
from CMBDetectorLib.memory import available_gb, require_memory_for
from CMBDetectorLib.models import Model, load_model
from CMBDetectorLib.phase import PreparedPhase, prepare
from CMBDetectorLib.preflight import check
from CMBDetectorLib.preprocessing import detector_input
from CMBDetectorLib.request import FLOOR, DetectionRequest, Settings
from CMBDetectorLib.result import InputFile, Provenance, Result, number
from CMBDetectorLib.segment import segment
from CMBDetectorLib.stages import STAGES
from CMBDetectorLib.volume import Volume, read_volume, voxels_in, without_itk_warnings

Progress = Callable[[str, float, str], None]
Answer = TypeVar("Answer")
Means = TypeVar("Means")

LEAST_BRAIN_ML = 100.0  # less than any brain: the segmenter found none


def run(request: DetectionRequest, progress: Progress, models_dir: Path | None = None) -> Result:
    """Search one case.

    Parameters
    ----------
    request : DetectionRequest
    progress : callable
        Called as ``progress(stage, fraction, message)`` with the stages of `stages.STAGES`; raising
        `errors.Cancelled` in it cancels the run.
    models_dir : Path or None
        Folder of the networks; None takes the bundled ones.

    Raises
    ------
    InputError, ModelError
        What cannot be searched, or with what, in a sentence for the user.
    OutOfMemoryError
        The scan is too large for the memory that is free.
    """
    with (
        _threads(request.settings.threads),
        without_itk_warnings(),  # here, too, because two threads that switch them would leave them off
        ThreadPoolExecutor(1) as beside,
    ):
        return _run(request, progress, models_dir, beside)


def _run(request: DetectionRequest, progress: Progress, models_dir: Path | None, beside: ThreadPoolExecutor) -> Result:
    settings = request.settings
    seconds: dict[str, float] = {}
    notices: list[str] = []
    load = partial(load_model, models_dir=models_dir)

    def load_where_it_fits(name: str) -> Model:
        return where_it_fits(
            lambda device: load(name, device=device),
            settings.device,
            lambda: "cpu",
            lambda notice: _announce("read", notice, notices, progress),
        )[0]

    with _timed("read", seconds, progress):
        free_gb = available_gb()
        voxels = {image: voxels_in(image) for image in (request.swi, request.phase) if image is not None}
        for image, known in voxels.items():
            if known is not None:
                require_memory_for(known, image, free_gb)
        phase_later = beside.submit(read_volume, request.phase) if request.phase is not None else None
        detector = load_where_it_fits("detector")
        thresholds = {reads_phase: threshold(settings, detector, reads_phase) for reads_phase in (True, False)}
        segmenter = load_where_it_fits("segmenter")
        progress("read", 0.2, f"Reading {request.swi.name}")
        swi = read_volume(request.swi)
        if voxels[request.swi] is None:
            require_memory_for(swi.array.size, request.swi, free_gb)
        if request.phase is not None:
            progress("read", 0.6, f"Reading {request.phase.name}")
        phase = phase_later.result() if phase_later else None
    with _timed("check", seconds, progress):
        inputs = check(swi, phase, force=settings.force)
        notices += inputs.notices
        files = beside.submit(_checksums, request, swi, phase)
        del swi, phase, phase_later  # what the files said is no longer needed, and is large
    with _timed("localize", seconds, progress):
        regions, segmenter = where_it_fits(
            lambda model: segment(model, inputs.swi, progress),
            segmenter,
            lambda: load("segmenter", device="cpu"),
            lambda notice: _announce("localize", notice, notices, progress),
        )
        searched_ml = float(regions.brain.array.sum() * np.prod(inputs.swi.spacing_mm) / 1000)
        if searched_ml < LEAST_BRAIN_ML:
            raise InputError(
                f"Only {searched_ml:.0f} ml of brain were found in {inputs.swi.source or request.swi}. "
                "Check that it is an SWI of a whole head."
            )
    with _timed("prepare", seconds, progress):
        prepared = (
            prepare(inputs.phase, inputs.swi, regions.brain, settings.polarity) if inputs.phase is not None else None
        )
        if prepared and prepared.notice:
            notices.append(prepared.notice)
        if prepared and not prepared.sign_is_known:
            prepared = None
        inputs = replace(inputs, phase=None)  # the filtered one takes its place
        network_input = detector_input(inputs.swi, prepared.volume if prepared else None, regions.brain)
    with _timed("detect", seconds, progress):
        detections, detector = where_it_fits(
            lambda model: detect(model, network_input, FLOOR, progress, notices.append),
            detector,
            lambda: load("detector", device="cpu"),
            lambda notice: _announce("detect", notice, notices, progress),
        )
    with _timed("measure", seconds, progress):
        brightness = measure_brightness(inputs.swi, regions) if detections else None
        candidates = [_candidate(d, inputs.swi, prepared, regions, brightness, progress) for d in detections]

    swi_file, phase_file = files.result()
    return Result(
        candidates=number(candidates),
        regions=regions.regions,
        swi=inputs.swi,
        phase=prepared.volume if prepared else None,
        notices=tuple(notices),
        searched_ml=searched_ml,
        provenance=Provenance(
            version=__version__,
            finished_at=datetime.now().astimezone().isoformat(timespec="seconds"),
            swi=swi_file,
            phase=phase_file,
            detector_sha256=str(detector.manifest["sha256"]),
            segmenter_sha256=str(segmenter.manifest["sha256"]),
            settings=settings,
            threshold=thresholds[prepared is not None],
            device=detector.description,
            polarity=prepared.polarity if prepared else "none",
            seconds_per_stage=seconds,
        ),
    )


def _checksums(request: DetectionRequest, swi: Volume, phase: Volume | None) -> tuple[InputFile, InputFile | None]:
    swi_file = InputFile(str(request.swi), swi.sha256)
    return swi_file, InputFile(str(request.phase), phase.sha256) if phase is not None else None


def where_it_fits(
    step: Callable[[Means], Answer], means: Means, on_cpu: Callable[[], Means], announce: Callable[[str], None]
) -> tuple[Answer, Means]:
    """Do a step by some means or, where the GPU has too little memory for it, by those on the CPU.

    Parameters
    ----------
    means : Model or str
        The network that does it, or the device for it.

    Returns
    -------
    answer
        What `step` made.
    means
        By which it was made.
    """
    try:
        return step(means), means
    except (RuntimeError, DeviceMemoryError) as problem:
        if not is_want_of_device_memory(problem):
            raise
    # Not before: until the block above ends, the exception keeps what the GPU holds.
    announce("The memory of the GPU did not suffice, so the CPU did the work.")
    means = on_cpu()
    return step(means), means


def _announce(stage: str, notice: str, notices: list[str], progress: Progress) -> None:
    if notice not in notices:
        notices.append(notice)
    progress(stage, 0.0, "The memory of the GPU does not suffice; going on with the CPU")


def threshold(settings: Settings, detector: Model, reads_phase: bool) -> float:
    """The lowest probability reported: the user's, or the one that was chosen on validation heads.

    SWI alone has its own, where the manifest names one, as without phase more of what looks like a microbleed is none.
    """
    if settings.threshold is not None:
        return settings.threshold
    chosen = detector.manifest["threshold"]
    if not reads_phase:
        chosen = detector.manifest.get("threshold_without_phase", chosen)
    if not isinstance(chosen, float):
        raise ModelError("The manifest of the detector gives no threshold. Install CMBDetector again, or set one.")
    return chosen


def _candidate(
    detection: Detection,
    swi: Volume,
    prepared: PreparedPhase | None,
    regions: Segmentation,
    brightness: Brightness | None,
    progress: Progress,
) -> Candidate:
    progress("measure", 0.0, "Measuring the candidates")
    center, diameter = detection.center_ras_mm, detection.diameter_mm
    location, exclusion = locate(center, diameter, regions)
    if not exclusion and brightness is not None and lies_in_fluid(center, diameter, swi, regions, brightness):
        exclusion = IN_FLUID
    return Candidate(
        center_ras_mm=center,
        diameter_mm=diameter,
        volume_mm3=apparent_volume_mm3(center, diameter, swi),
        probability=detection.probability,
        location=location,
        phase_evidence=phase_evidence(center, diameter, prepared.volume if prepared else None),
        exclusion=exclusion,
    )


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Use so many CPU threads, or as many as before; afterwards as many as before again."""
    before = torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    if count is not None:
        torch.set_num_threads(count)
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before[1])


@contextmanager
def _timed(stage: str, seconds: dict[str, float], progress: Progress) -> Iterator[None]:
    """Announce a stage at its begin and end, and note its wall time."""
    progress(stage, 0.0, STAGES[stage].title)
    began = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - began, 3)
    progress(stage, 1.0, STAGES[stage].title)
