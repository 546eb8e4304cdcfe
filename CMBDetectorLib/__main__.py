"""The command line: ``python -m CMBDetectorLib`` or ``cmb-detector``.

Exit codes: 0 done, 2 input, 3 network files, 4 output, 5 memory, 6 memory of the GPU, 130 cancelled
(`CMBDetectorLib.errors`).
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from CMBDetectorLib import RESEARCH_USE, __version__
from CMBDetectorLib.encoding import restart_in_utf8
from CMBDetectorLib.errors import Cancelled, CMBDetectorError, InputError, OutputError
from CMBDetectorLib.interruption import raise_on_termination
from CMBDetectorLib.json_file import read_json
from CMBDetectorLib.request import DEVICES, POLARITIES, DetectionRequest, Settings
from CMBDetectorLib.stages import overall

Progress = Callable[[str, float, str], None]

DETAILS = ("froc", "per_case", "left_out")  # of an evaluation: in its file, neither printed nor kept in a manifest


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code. What the user did wrong is told in one line on stderr."""
    if arguments is None:
        restart_in_utf8()
    options = _parser().parse_args(arguments)
    raise_on_termination()
    for stream in (sys.stdout, sys.stderr):  # a path in a script that the terminal lacks must not end a good run
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        options.command(options)
        sys.stdout.flush()
        return 0
    except (KeyboardInterrupt, Cancelled):
        return _tell(options, "Cancelled.", Cancelled.exit_code)
    except CMBDetectorError as problem:
        return _tell(options, f"cmb-detector: {problem}", problem.exit_code)
    except OSError as problem:
        if problem.errno == errno.EPIPE:  # whoever read the output, such as head, has enough
            _drop_output()
            return 0
        if problem.errno != errno.ENOSPC:
            raise
        message = "cmb-detector: The disk that this command writes to is full. Make space on it."
        try:
            _tell(options, message, OutputError.exit_code)
            sys.stdout.flush()
        except OSError:  # stdout itself goes to that disk
            _drop_output()
        return OutputError.exit_code


def _drop_output() -> None:
    """Send what stdout still holds nowhere, or Python would complain of it on its way out."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell(options: argparse.Namespace, message: str, exit_code: int) -> int:
    """End with a message: on a line of its own below a progress bar, and as an event where events were asked for."""
    if _draws_bar(options):
        print(file=sys.stderr)
    print(message, file=sys.stderr)
    if options.json_progress:
        print(json.dumps({"event": "error", "message": message, "exit_code": exit_code}), flush=True)
    return exit_code


def _end(options: argparse.Namespace, text: str, **result: object) -> None:
    """Tell what came of a run: as text, as an event where events were asked for, or not at all."""
    if options.json_progress:
        print(json.dumps({"event": "result", **result}), flush=True)
    elif not options.quiet:
        print(text)


def detect(options: argparse.Namespace) -> None:
    """Search one case and print its table and summary."""
    request = DetectionRequest(
        swi=options.swi,
        phase=options.phase,
        out=options.out,
        settings=Settings(
            threshold=options.threshold,
            device=options.device,
            polarity=options.polarity,
            threads=options.threads,
            force=options.force,
        ),
        overwrite=options.overwrite,
        with_images=options.with_images,
    )
    from CMBDetectorLib.report import format_table, summary_lines
    from CMBDetectorLib.worker import perform, result_event

    result = perform(request, _progress(options))
    if options.json_progress:
        print(json.dumps(result_event(request, result)), flush=True)
    elif not options.quiet:
        print(format_table(result))
        print()
        print("\n".join(summary_lines(result)))
        print(f"\nWritten to {options.out}")


def simulate(options: argparse.Namespace) -> None:
    """Render simulated cases."""
    from CMBDetectorLib.models import choose_device
    from CMBDetectorLib.simulation.cohort import simulate as render_cases

    render_cases(
        options.heads,
        options.out,
        cases=options.cases,
        seed=options.seed,
        protocol=options.protocol,
        varied=options.varied,
        atrophy=options.atrophy,
        burden=options.burden,
        heads=[name.strip() for name in options.only.split(",")] if options.only else None,
        vessels=options.vessels,
        device=choose_device(options.device).type,
        processes=options.processes,
        pictures=options.pictures,
        progress=_progress(options),
    )


def alter(options: argparse.Namespace) -> None:
    """Copy simulated cases, altered as other scanners might."""
    from CMBDetectorLib.simulation.alterations import alter as alter_cases

    alter_cases(options.cases, options.out, options.kind, seed=options.seed, progress=_progress(options))


def implant(options: argparse.Namespace) -> None:
    """Put known microbleeds into a scan that has none and write it as a case for `evaluate`."""
    from CMBDetectorLib.localize import locate
    from CMBDetectorLib.models import load_model
    from CMBDetectorLib.phase import prepare
    from CMBDetectorLib.preflight import check
    from CMBDetectorLib.report.write import check_folder
    from CMBDetectorLib.segment import segment
    from CMBDetectorLib.simulation.case import write_case
    from CMBDetectorLib.simulation.implant import echo_and_field, implanted_case
    from CMBDetectorLib.volume import read_volume

    check_folder(options.out)
    swi, phase = read_volume(options.swi), read_volume(options.phase)
    echo_time_ms, field_t = echo_and_field(swi, options.echo_time, options.field)
    inputs = check(swi, phase, force=options.force)
    assert inputs.phase is not None
    progress = _progress(options)
    regions = segment(load_model("segmenter"), inputs.swi, progress)
    prepared = prepare(inputs.phase, inputs.swi, regions.brain, options.polarity)
    if not prepared.sign_is_known:
        raise InputError(f"The sign of the phase {options.phase} cannot be told. Give --polarity bright or dark.")

    same_grid = phase.array.shape == swi.array.shape and abs(phase.ijk_to_ras - swi.ijk_to_ras).max() < 1e-3
    case = implanted_case(
        inputs.swi,
        phase if same_grid else inputs.phase,  # the numbers that the scanner stored, where they need no resampling
        regions.regions,
        # Of its own for every scan, and without the name of a patient, as it may go into a manifest.
        head=f"scan-{hashlib.sha256(os.fsencode(options.swi.resolve())).hexdigest()[:12]}",
        count=options.count,
        seed=options.seed,
        echo_time_ms=echo_time_ms,
        field_t=field_t,
        paramagnetic_sign=1 if prepared.polarity == "bright" else -1,
        location_of=lambda center_ras_mm: locate(center_ras_mm, 0.0, regions)[0],
    )
    write_case(case, options.out)
    progress("implant", 1.0, f"Written to {options.out}")
    lesions, faint = len(case.truth["lesions"]), len(case.truth["faint"])
    said = f"Put in {lesions} microbleeds, {faint} fainter ones; paramagnetic tissue is {prepared.polarity}."
    text = "\n".join(filter(None, [said, prepared.notice, f"Written to {options.out}"]))
    _end(options, text, out=str(options.out), lesions=lesions, faint=faint, polarity=prepared.polarity)


def train(options: argparse.Namespace) -> None:
    """Train a network, from its checkpoint where there is one."""
    from CMBDetectorLib.training.config import DetectorTraining, SegmenterTraining
    from CMBDetectorLib.training.detector import train_detector
    from CMBDetectorLib.training.segmenter import train_segmenter

    if options.network == "detector":
        train_detector(DetectorTraining.from_json(options.config), _progress(options))
    else:
        train_segmenter(SegmenterTraining.from_json(options.config), _progress(options))


def evaluate(options: argparse.Namespace) -> None:
    """Search simulated cases and compare with their truth."""
    from CMBDetectorLib.evaluation.cohort import CHARTS
    from CMBDetectorLib.evaluation.cohort import evaluate as evaluate_cases
    from CMBDetectorLib.evaluation.cohort_page import write_page

    if options.charts:
        from CMBDetectorLib.evaluation.charts import draw, new_figure

        new_figure(1, 1)  # refused here where matplotlib is missing, not after the search
    report = evaluate_cases(
        options.cases,
        options.out,
        # A scan that preflight doubts counts, too: it is searched all the same.
        settings=Settings(threshold=options.threshold, device=options.device, polarity=options.polarity, force=True),
        with_phase=not options.without_phase,
        models_dir=options.models,
        overwrite=options.overwrite,
        progress=_progress(options),
    )
    if options.charts:
        draw({" and ".join(folder.name for folder in options.cases): report}, options.out / CHARTS)
    write_page(report, options.out)
    _complain_of_left_out(report, options.out / "evaluation.json")
    _end(options, json.dumps(_short(report), indent=1), out=str(options.out), report=_short(report))


def ablate(options: argparse.Namespace) -> None:
    """Compare variants of the detector on the same cases."""
    from CMBDetectorLib.evaluation.ablation import ablate as compare
    from CMBDetectorLib.evaluation.ablation_page import write_page

    done = compare(
        options.cases,
        options.validation,
        options.out,
        options.variant,
        anatomy=options.anatomy,
        models_dir=options.models,
        device=options.device,
        progress=_progress(options),
    )
    page = write_page(done, options.out)
    _end(options, f"Written to {page}", page=str(page))


def evaluate_regions(options: argparse.Namespace) -> None:
    """Compare the segmenter's regions with the true ones of simulated cases."""
    from CMBDetectorLib.evaluation.regions import evaluate_regions as compare

    report = compare(
        options.cases,
        options.out,
        device=options.device,
        models_dir=options.models,
        overwrite=options.overwrite,
        progress=_progress(options),
    )
    page = options.out / "regions.md"
    _complain_of_left_out(report, page)
    _end(options, page.read_text(encoding="utf-8"), page=str(page))


def _complain_of_left_out(report: dict[str, Any], file: Path) -> None:
    """Raise `InputError` where an evaluation left cases out; what it says of the others is in a file."""
    if left_out := report["left_out"]:
        name, why = next(iter(left_out.items()))
        raise InputError(
            f"{len(left_out)} of {len(left_out) + report['cases']} cases could not be evaluated. The first, {name}: "
            f"{why} The figures of the others are in {file}."
        )


def export(options: argparse.Namespace) -> None:
    """Make a checkpoint the bundled network."""
    from CMBDetectorLib.resources import resources_dir
    from CMBDetectorLib.training.export import export_model, update_manifest

    reports = {file.stem: read_json(file) for file in options.figures or ()}  # before a network is replaced
    for file in options.figures or ():
        if reports[file.stem].get("left_out"):
            raise InputError(f"{file} leaves cases out. Mend or remove them, evaluate again, and give that report.")
    folder = options.models or resources_dir() / "Models"
    manifest = export_model(
        options.network,
        options.checkpoint,
        folder,
        threshold=options.threshold,
        threshold_without_phase=options.threshold_without_phase,
    )
    update_manifest(manifest, figures={name: _short(report) for name, report in reports.items()})
    _end(options, f"Written to {manifest}", manifest=str(manifest))


def _short(report: dict[str, Any]) -> dict[str, Any]:
    """Leave the details out of an evaluation."""
    return {name: value for name, value in report.items() if name not in DETAILS}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cmb-detector",
        description="Finds candidate cerebral microbleeds in SWI and phase.",
        epilog=RESEARCH_USE,
    )
    parser.add_argument("--version", action="version", version=f"CMBDetector {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    one = commands.add_parser("detect", help="search one case", epilog=RESEARCH_USE)
    one.set_defaults(command=detect)
    image = "NIfTI, NRRD or MetaImage file, or DICOM series folder"
    one.add_argument("--swi", type=Path, required=True, metavar="FILE", help=f"susceptibility-weighted image: {image}")
    one.add_argument("--phase", type=Path, metavar="FILE", help="phase image of the same scan; left out, the search "
                     "runs on SWI alone and cannot tell calcifications from microbleeds")  # fmt: skip
    one.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    one.add_argument("--threshold", type=float, metavar="P", help="lowest probability to report, 0.1 to 0.99 "
                     "(default: the one chosen on validation heads, with phase or without)")  # fmt: skip
    one.add_argument("--device", choices=DEVICES, default="auto", help="where the networks run (default: %(default)s)")
    one.add_argument("--polarity", choices=POLARITIES, default="auto", help="how paramagnetic tissue (veins along the "
                     "field) looks on the phase image (default: %(default)s, measured)")  # fmt: skip
    one.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    one.add_argument("--force", action="store_true", help="search all the same when slices are thick, "
                     "the head is not covered, or the contrast looks like T1 or T2")  # fmt: skip
    one.add_argument("--overwrite", action="store_true", help="replace an earlier result in the folder")
    one.add_argument("--with-images", action="store_true", help="copy the images beside the results, so that "
                     "scene.mrml opens anywhere")  # fmt: skip
    _add_progress(one)

    many = commands.add_parser("simulate", help="render simulated cases with known microbleeds")
    many.set_defaults(command=simulate)
    many.add_argument("--heads", type=Path, required=True, metavar="DIR", help="folder of NN_labels.nii.gz and "
                      "NN_mars.nii.gz")  # fmt: skip
    many.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the cases")
    many.add_argument("--cases", type=_from(1), default=1, metavar="N", help="how many (default: %(default)s)")
    many.add_argument("--seed", type=_from(0), default=0, metavar="S", help="of the first case; sets whose seeds are "
                      "closer than their number of cases can share cases (default: %(default)s)")  # fmt: skip
    many.add_argument("--protocol", default="all", metavar="NAME", help="3T-2mm, 3T-3mm, 3T-opposite, 1.5T, "
                      "3T-compact or all")  # fmt: skip
    many.add_argument("--varied", action="store_true", help="vary each protocol as hospitals do")
    many.add_argument("--atrophy", action="store_true", help="thin the cortex more, which widens the sulci")
    many.add_argument("--burden", default="realistic", metavar="NAME", help="microbleeds per case: a number, or "
                      "realistic, none, many or training (default: %(default)s)")  # fmt: skip
    many.add_argument("--only", metavar="NN,NN", help="heads to use (default: all in the folder)")
    many.add_argument("--vessels", type=_from(1), default=1, metavar="N", help="sets of veins and arteries that every "
                      "head has; each case draws one (default: %(default)s)")  # fmt: skip
    many.add_argument("--processes", type=_from(1), default=1, metavar="N", help="cases rendered at a time; each takes "
                      "up to 9 GB (default: %(default)s)")  # fmt: skip
    many.add_argument("--pictures", action="store_true", help="also write a montage.png of every case")
    many.add_argument("--device", choices=DEVICES, default="auto", help="where to render (default: %(default)s)")
    _add_progress(many)

    other = commands.add_parser("alter", help="copy simulated cases as another scanner might have made them; "
                                "copies that are there are kept")  # fmt: skip
    other.set_defaults(command=alter)
    other.add_argument("--cases", type=Path, required=True, metavar="DIR", help="folder of case folders")
    other.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the copies")
    other.add_argument("--as", dest="kind", required=True, metavar="NAME", help="random, for one to three alterations "
                       "of random strength, or power, fluid, fat, rim-shading, side-shading, noise, blur, ringing, "
                       "ghost, stripped, weak-phase or phase-noise")  # fmt: skip
    other.add_argument("--seed", type=_from(0), default=0, metavar="S", help="of what is random (default: %(default)s)")
    _add_progress(other)

    known = commands.add_parser("implant", help="put known microbleeds into a scan without any, for evaluate")
    known.set_defaults(command=implant)
    known.add_argument("--swi", type=Path, required=True, metavar="FILE", help=f"{image}, without microbleeds")
    known.add_argument("--phase", type=Path, required=True, metavar="FILE", help="phase image of the same scan")
    known.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for this one case")
    known.add_argument("--count", type=_from(1), default=10, metavar="N", help="microbleeds (default: %(default)s)")
    known.add_argument("--seed", type=_from(0), default=0, metavar="S", help="of places, sizes (default: %(default)s)")
    known.add_argument("--echo-time", type=float, metavar="MS", help="in ms (default: what the scanner wrote)")
    known.add_argument("--field", type=float, metavar="T", help="in tesla (default: what the scanner wrote)")
    known.add_argument("--polarity", choices=POLARITIES, default="auto", help="as for detect (default: %(default)s)")
    known.add_argument("--force", action="store_true", help="take a scan that looks unsuitable all the same")
    _add_progress(known)

    learn = commands.add_parser("train", help="train a network on simulated cases")
    learn.set_defaults(command=train)
    learn.add_argument("network", choices=("detector", "segmenter"))
    learn.add_argument("--config", type=Path, required=True, metavar="FILE", help="JSON file with the options")
    _add_progress(learn)

    test = commands.add_parser("evaluate", help="compare with the truth of simulated cases")
    test.set_defaults(command=evaluate)
    test.add_argument("--cases", type=Path, required=True, nargs="+", metavar="DIR", help="folders of case folders")
    test.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for evaluation.md, evaluation.json, cases.csv"
    )
    test.add_argument("--threshold", type=float, metavar="P", help="instead of the bundled one")
    test.add_argument("--models", type=Path, metavar="DIR", help="folder of networks, instead of the bundled ones")
    test.add_argument("--charts", action="store_true", help="also draw charts.png (needs matplotlib)")
    test.add_argument("--without-phase", action="store_true", help="search the SWI alone")
    test.add_argument("--device", choices=DEVICES, default="auto")
    test.add_argument("--polarity", choices=POLARITIES, default="auto")
    test.add_argument("--overwrite", action="store_true", help="replace an earlier evaluation in the folder")
    _add_progress(test)

    where = commands.add_parser("evaluate-regions", help="compare the regions found with those of simulated cases")
    where.set_defaults(command=evaluate_regions)
    where.add_argument("--cases", type=Path, required=True, nargs="+", metavar="DIR", help="folders of case folders")
    where.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for regions.md and its pictures")
    where.add_argument("--models", type=Path, metavar="DIR", help="folder of networks, instead of the bundled ones")
    where.add_argument("--device", choices=DEVICES, default="auto")
    where.add_argument("--overwrite", action="store_true", help="replace an earlier evaluation in the folder")
    _add_progress(where)

    parts = commands.add_parser("ablate", help="compare variants of the detector on simulated cases")
    parts.set_defaults(command=ablate)
    parts.add_argument("--cases", type=Path, required=True, metavar="DIR", help="folder of test case folders")
    parts.add_argument("--validation", type=Path, required=True, metavar="DIR", help="folder of case folders on which "
                       "thresholds are chosen")  # fmt: skip
    parts.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for evaluation.md, tables and "
                       "ablation.json; keeps what was computed for the next call")  # fmt: skip
    parts.add_argument("--variant", type=_variant, action="append", required=True, metavar="NAME=PATH", help="training "
                       "checkpoint, or folder of exported networks; once per variant, the reference first")  # fmt: skip
    parts.add_argument("--anatomy", metavar="NAME", help="variant that is also shown with anatomical exclusion")
    parts.add_argument("--models", type=Path, metavar="DIR", help="folder of the segmenter, instead of the bundled one")
    parts.add_argument("--device", choices=DEVICES, default="auto")
    _add_progress(parts)

    ship = commands.add_parser("export", help="make a training checkpoint the bundled network")
    ship.set_defaults(command=export)
    ship.add_argument("network", choices=("detector", "segmenter"))
    ship.add_argument("--checkpoint", type=Path, required=True, metavar="FILE")
    ship.add_argument("--models", type=Path, metavar="DIR", help="folder to write to (default: the bundled one)")
    ship.add_argument("--threshold", type=float, metavar="P", help="lowest probability to report by default")
    ship.add_argument("--threshold-without-phase", type=float, metavar="P", help="the same for SWI alone (default: "
                      "--threshold)")  # fmt: skip
    ship.add_argument("--figures", type=Path, nargs="+", metavar="FILE", help="reports of 'evaluate' to keep in the "
                      "manifest, under the names of their files")  # fmt: skip
    _add_progress(ship)
    return parser


def _from(least: int) -> Callable[[str], int]:
    """Give the reader of a whole number that is no smaller than this."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from {least} on")
        return int(text)

    return number


def _variant(text: str) -> tuple[str, Path]:
    """Read ``NAME=PATH``."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=PATH")
    return name, Path(path)


def _add_progress(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json-progress", action="store_true", help="print progress, the result or the error as one "
                        "line of JSON per event")  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")


def _progress(options: argparse.Namespace) -> Progress:
    """How this run tells its progress: JSON lines, a bar on a terminal, or not at all."""
    # The stages of a detection add up to one run; other commands count each stage from 0 to 1.
    of_all: Callable[[str, float], float] = overall if options.command is detect else lambda stage, fraction: fraction
    if options.json_progress:
        return _json_lines(of_all)
    return _bar(of_all) if _draws_bar(options) else lambda stage, fraction, message: None


def _draws_bar(options: argparse.Namespace) -> bool:
    return not options.quiet and not options.json_progress and sys.stderr.isatty()


def _json_lines(of_all: Callable[[str, float], float]) -> Progress:
    def say(stage: str, fraction: float, message: str) -> None:
        done = round(of_all(stage, fraction), 4)
        print(json.dumps({"event": "progress", "stage": stage, "fraction": done, "message": message}), flush=True)

    return say


def _bar(of_all: Callable[[str, float], float], width: int = 30) -> Progress:
    began = time.monotonic()

    def draw(stage: str, fraction: float, message: str) -> None:
        done = of_all(stage, fraction)
        bar = "#" * round(done * width)
        end = "\n" if done >= 1 else ""
        text = f"[{bar:<{width}}] {done:4.0%} {time.monotonic() - began:5.1f} s  {message}"
        columns = shutil.get_terminal_size().columns - 1  # a full line would begin a new one
        print(f"\r{text:<{columns}.{columns}}", end=end, file=sys.stderr, flush=True)

    return draw


if __name__ == "__main__":
    sys.exit(main())
