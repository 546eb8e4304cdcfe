"""``python -m Testing.benchmark`` measures everything and writes docs/performance.md with its chart.

``--quick`` measures the search alone and prints it. Names of pieces measure these alone again and take the figures of
the others from the last run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from Testing.benchmark.page import page, quick
from Testing.benchmark.pieces import FOLDER, PIECES, Figures, make_cases, networks, searches
from Testing.benchmark.process import ROOT

PAGE = ROOT / "docs" / "performance.md"
CHART = ROOT / "docs" / "images" / "performance.png"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m Testing.benchmark", description=__doc__)
    parser.add_argument("pieces", nargs="*", metavar="PIECE", help=f"{', '.join(PIECES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="the search alone, once, printed")
    options = parser.parse_args()
    if unknown := {*options.pieces} - {*PIECES}:
        parser.error(f"there is no piece {', '.join(sorted(unknown))}; choose from {', '.join(PIECES)}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        make_cases()
        if options.quick:
            print(quick(searches(repeats=1), networks(with_monai=False)))
        else:
            measure(options.pieces or list(PIECES))
    except KeyboardInterrupt:
        print("Interrupted; the page is as it was.", file=sys.stderr)
        return 130
    except RuntimeError as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


def measure(pieces: list[str]) -> None:
    """Measure pieces, keep their figures, and write the page when there are figures of all."""
    for name in pieces:
        _kept(name).unlink(missing_ok=True)
    for name in pieces:
        began = time.monotonic()
        print(f"{name} ...", flush=True)
        _kept(name).write_text(json.dumps(PIECES[name](), indent=1))
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    if absent := [name for name in PIECES if not _kept(name).exists()]:
        print(f"No page: {', '.join(absent)} not measured yet")
        return
    whole = {*pieces} == {*PIECES}
    command = "`make bench`, in one run" if whole else "`python -m Testing.benchmark PIECE`, piece by piece"
    write({name: json.loads(_kept(name).read_text()) for name in PIECES}, command)


def write(figures: Figures, command: str) -> None:
    """Write page and chart, each whole or not at all."""
    from Testing.benchmark.chart import draw
    from Testing.benchmark.machine import machine

    text = page(figures | {"machine": machine() | {"command": command}})
    _replace(CHART, lambda path: draw(figures, path))
    _replace(PAGE, lambda path: path.write_text(text))
    print(f"Wrote {PAGE.relative_to(ROOT)}")


def _kept(name: str) -> Path:
    return FOLDER / f"{name}.json"


def _replace(path: Path, fill: Callable[[Path], object]) -> None:
    """Write a file beside its place first, so that an interruption leaves the old one."""
    partial = FOLDER / f"{path.name}.partial"
    fill(partial)
    os.replace(partial, path)


if __name__ == "__main__":
    sys.exit(main())
