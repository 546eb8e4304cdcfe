"""Time and memory of one search, written to docs/performance.md: ``python Testing/benchmark.py CASE [RUNS]``."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"


def run(case: Path, out: Path) -> tuple[float, dict[str, float], str]:
    """Search a case once in a process of its own: wall time in s, seconds per stage, and the device it used."""
    began = time.perf_counter()
    scan = ["--swi", str(case / "swi.nii.gz"), "--phase", str(case / "phase.nii.gz")]
    search = [sys.executable, "-m", "CMBDetectorLib", "detect", *scan, "--out", str(out)]
    subprocess.run(search, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    wall_s = time.perf_counter() - began
    provenance = json.loads((out / "candidates.json").read_text())["provenance"]
    return wall_s, provenance["seconds_per_stage"], provenance["device"]


def peak_memory_gib() -> float:
    """Largest resident size of any child process so far, GiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 2**30


def processor() -> str:
    """Model of the CPU as the system names it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


def page(case: Path, runs: list[tuple[float, dict[str, float], str]]) -> str:
    """The text of docs/performance.md."""
    import SimpleITK as sitk

    header = sitk.ImageFileReader()
    header.SetFileName(str(case / "swi.nii.gz"))
    header.ReadImageInformation()
    size = " x ".join(map(str, header.GetSize()))
    spacing = " x ".join(f"{mm:g}" for mm in header.GetSpacing())

    seconds = {stage: statistics.median(run[1][stage] for run in runs) for stage in runs[0][1]}
    wall_s = statistics.median(run[0] for run in runs)
    rest_s = statistics.median(run[0] - sum(run[1].values()) for run in runs)
    rows = [*seconds.items(), ("start-up and writing", rest_s), ("**whole run**", wall_s)]
    table = "\n".join(f"| {stage} | {s:.1f} |" for stage, s in rows)
    return f"""# Time and memory

Median of {len(runs)} runs of the command line, each in a process of its own. `make bench` writes this page.

| stage | seconds |
|---|---:|
{table}

Peak memory: {peak_memory_gib():.1f} GiB (resident set of the process).

| | |
|---|---|
| scan | `{case}`: {size} voxels of {spacing} mm |
| device | {runs[0][2]} |
| processor | {processor()}, {os.cpu_count()} cores |
| system | {platform.system()} {platform.machine()}, Python {platform.python_version()} |
"""


def main() -> None:
    case, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with tempfile.TemporaryDirectory() as folder:
        runs = [run((ROOT / case).resolve(), Path(folder) / str(n)) for n in range(count)]
    PAGE.write_text(page(case, runs))
    print(f"Wrote {PAGE.relative_to(ROOT)}: {statistics.median(r[0] for r in runs):.1f} s a run.")


if __name__ == "__main__":
    main()
