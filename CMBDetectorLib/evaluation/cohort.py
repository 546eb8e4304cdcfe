"""Evaluation of the bundled networks on folders of simulated cases: ``python -m CMBDetectorLib evaluate``."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from CMBDetectorLib.evaluation.evaluated import Evaluated
from CMBDetectorLib.evaluation.figures import figures
from CMBDetectorLib.evaluation.folders import NEEDED, PHASE, WITH_PHASE, case_folders, each_case, prepare_folder
from CMBDetectorLib.models import choose_device
from CMBDetectorLib.output_folder import said_plainly
from CMBDetectorLib.pipeline import run
from CMBDetectorLib.request import DetectionRequest, Settings

Progress = Callable[[str, float, str], None]
CHARTS = "charts.png"  # drawn beside the report where asked for


def evaluate(
    cases_dirs: Sequence[Path],
    out: Path,
    *,
    settings: Settings,
    with_phase: bool = True,
    models_dir: Path | None = None,
    overwrite: bool = False,
    progress: Progress = lambda stage, fraction, message: None,
) -> dict[str, Any]:
    """Search every case below some folders and compare with its ``truth.json``; write ``evaluation.json`` and a CSV.

    `cohort_page.write_page` makes a page of it.

    Raises
    ------
    InputError
        A folder of cases is not as it should be or there is no such device, told before the search; or no case can be
        searched.
    OutputError
        Nothing can be written to `out`, or an earlier evaluation lies there and `overwrite` was not asked for; told
        before the search.

    Returns
    -------
    dict
        Content of ``evaluation.json``: the operating point at the threshold applied, the one that validation would
        choose, sensitivity per size, region, protocol and conspicuity, Dice of the regions, how often the place of a
        lesion found is right, the FROC curve, what was ``searched`` with which networks, and, by name, why cases were
        ``left_out``.
    """
    choose_device(settings.device)
    folders = case_folders(*cases_dirs, needed=WITH_PHASE if with_phase else NEEDED)
    replaces = prepare_folder(out, "evaluation.json", overwrite)

    searched: dict[str, Any] = {"folders": [folder.name for folder in cases_dirs], "with_phase": with_phase}

    def search(name: str, folder: Path) -> Evaluated:
        request = DetectionRequest(
            swi=folder / "swi.nii.gz",
            phase=folder / PHASE if with_phase else None,
            out=out,
            settings=settings,
        )
        result = run(request, lambda *_: None, models_dir)
        for network in ("detector_sha256", "segmenter_sha256"):
            searched[network] = getattr(result.provenance, network)
        return Evaluated.of(name, folder, result)

    done, left_out = each_case(folders, search, partial(progress, "evaluate"))
    report = {"searched": searched, **figures(done, min(case.threshold for case in done)), "left_out": left_out}
    (out / "evaluation.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    with (out / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, report["per_case"][0], lineterminator="\n")
        table.writeheader()
        table.writerows(report["per_case"])
    if replaces:  # charts of the earlier evaluation
        with said_plainly(out):
            (out / CHARTS).unlink(missing_ok=True)
    progress("evaluate", 1.0, f"{len(done)} cases")
    return report
