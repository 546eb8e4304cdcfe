"""The figures as docs/performance.md."""

from __future__ import annotations

import math
import statistics
from typing import Any

from Testing.benchmark.pieces import LARGE, SMALL, Figures
from Testing.benchmark.process import START_UP

GRIDS = {LARGE: "512 x 448 x 72 voxels of 0.5 x 0.5 x 2 mm", SMALL: "256 x 256 x 64 voxels of 0.9 x 0.9 x 2.25 mm"}
NAMED = {"report": "writing"}


def page(figures: Figures) -> str:
    """The text of docs/performance.md."""
    searches, nnunet, machine = figures["searches"], figures["nnunet"], figures["machine"]
    own = next(iter(searches[LARGE]))
    ours = searches[LARGE][own]
    return f"""# Time and memory

`make bench` measures this anew and writes this page; `make bench-quick` measures the search alone and prints it.

![Times as multiples of ours, and how time and memory grow with the brain](images/performance.png)

## Compared with what one would use instead

Seconds depend on the machine, and so may ratios. Case: the sample scan on
{GRIDS[LARGE]}, from file to file, without start-up.

{_comparison(figures)}

- (a) Extrapolated: {nnunet["tiles_of_step"]["0.5"]} overlapping tiles of 8 mirrored passes, of which one tile was timed
  ({nnunet["mirrored_tile_s"]:.0f} s).
- (b) Extrapolated: the same {nnunet["tiles_of_step"]["0.5"]} tiles, one pass each; {nnunet["tiles"]} were timed.
- (c) Measured as a whole: {nnunet["tiles"]} tiles side by side, no mirroring.
- (d) Against our stage `detect`, on the same prepared input. MONAI searches the whole box around the brain, in
  {figures["networks"][own]["monai"]["windows"]} windows of 128 x 128 x 64 voxels with its default overlap of 0.25: in
  float32 the network as it is exported, four windows at once; in bfloat16 frozen, channels last, one at a time.

What is not comparable: nnU-Net segments, and its planner gives it a larger network ({nnunet["million_parameters"]:.0f}
million parameters, patches of {" x ".join(map(str, nnunet["patch"]))}); it names no regions. On a CPU it computes in
float32 by its own choice. Its weights here are random, which does not change the time. The sample scan is simulated and
has zeros around the head, which nnU-Net cuts off first. How well either finds microbleeds is not measured here.

## Stages

Seconds, median of {ours["runs"]} runs, each in a process of its own. Scans: {GRIDS[LARGE]}, and
{GRIDS[SMALL]}.

{_stages(searches)}

Start-up is Python, its packages and the networks, until the first file is read. Memory is the largest resident size.
nnU-Net's fastest setting takes {nnunet["peak_gb"]:.1f} GB.

## Growth

From the smallest to the largest scan, time grows as a power of the brain's voxels, and memory too:

| the same head with | brain voxels | time | memory | time, by all voxels of the scan |
|---|---|---:|---:|---:|
{_growth(figures["scaling"])}

1 would be linear growth. Finer voxels of the same head cost the network nothing: it always reads voxels of
0.5 x 0.5 x 1 mm. More slices are added below and above the first ones, where one holds less brain but as many
voxels to read, filter and write.

## Share of the machine's peak

Peak is the best of several 3x3x3 convolutions of 64 and 128 channels on 64 x 64 x 64 voxels, channels last.
Operations are those of our networks' convolutions for the tiles that were computed.

| | TFLOP | of peak, calls of the network | of peak, whole stage |
|---|---:|---:|---:|
{_reached(figures["networks"])}

## Measured on

| | |
|---|---|
| processor | {machine["processor"]}, {machine["cores"]} cores |
| memory | {machine["memory_gb"]:.0f} GB |
| system | {machine["system"]} |
| versions | {machine["versions"]} |
| command | {machine["command"]} |
"""


def _comparison(figures: Figures) -> str:
    nnunet, searches, networks = figures["nnunet"], figures["searches"][LARGE], figures["networks"]
    ours = {number_format: entry["after_start_s"] for number_format, entry in searches.items()}
    rows = {
        name: [_times(seconds, ours_s) for ours_s in ours.values()]
        for name, seconds in (
            ("nnU-Net v2, its default (a)", nnunet["default_s"]),
            ("nnU-Net v2, no mirroring (b)", nnunet["unmirrored_s"]),
            ("nnU-Net v2, its fastest setting (c)", nnunet["fastest_s"]),
        )
    }
    rows["MONAI's sliding window with our network, same format (d)"] = [
        _times(entry["monai"]["s"], entry["stage_s"]["detector"]) for entry in networks.values()
    ]
    rows["ours, seconds"] = [f"{ours_s:.1f}" for ours_s in ours.values()]
    head = f"| | {' | '.join(f'ours in {number_format}' for number_format in ours)} |\n|---|{'---:|' * len(ours)}"
    return "\n".join([head, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items())])


def _times(other_s: float, ours_s: float) -> str:
    ratio = other_s / ours_s
    return f"{ratio:.0f} times as long" if ratio >= 10 else f"{ratio:.1f} times as long"


def _stages(searches: Figures) -> str:
    columns = [(case, f, entry) for case, formats in searches.items() for f, entry in formats.items()]
    names = list(columns[0][2]["stages"])
    head = " | ".join(f"{case.replace('x', ' x ')}, {f}" for case, f, _ in columns)
    lines = [f"| | {head} |", "|---|" + "---:|" * len(columns)]
    for name in names:
        lines.append(_row(NAMED.get(name, name), [entry["stages"][name] for *_, entry in columns]))
    lines.append(_row("**without start-up**", [entry["after_start_s"] for *_, entry in columns]))
    lines.append(_row(f"**with {START_UP}**", [entry["wall_s"] for *_, entry in columns]))
    lines.append(_row("processor seconds", [entry["processor_s"] for *_, entry in columns]))
    lines.append(_row("peak memory, GB", [entry["peak_gb"] for *_, entry in columns]))
    return "\n".join(lines)


def _row(name: str, values: list[float]) -> str:
    return f"| {name} | " + " | ".join(f"{value:.1f}" for value in values) + " |"


def _growth(scaling: Figures) -> str:
    lines = []
    for name, scans in scaling.items():
        voxels = [scan["brain_voxels"] for scan in scans]
        time, memory = (slope(voxels, [scan[key] for scan in scans]) for key in ("after_start_s", "peak_gb"))
        by_scan = slope([scan["scan_voxels"] for scan in scans], [scan["after_start_s"] for scan in scans])
        span = f"{min(voxels) / 1e6:.1f} to {max(voxels) / 1e6:.1f} million"
        lines.append(f"| {name} | {span} | {time:.2f} | {memory:.2f} | {by_scan:.2f} |")
    return "\n".join(lines)


def slope(x: list[float], y: list[float]) -> float:
    """Exponent of the power law that fits best: 1 is linear growth."""
    return statistics.linear_regression([math.log(v) for v in x], [math.log(v) for v in y]).slope


def _reached(networks: Figures) -> str:
    lines = []
    for number_format, entry in networks.items():
        for network, operations in entry["operations"].items():
            shares = [operations / entry[key][network] / entry["peak"] for key in ("call_s", "stage_s")]
            name = f"{network}, {number_format} (peak {entry['peak'] / 1e9:.0f} GFLOP/s)"
            lines.append(f"| {name} | {operations / 1e12:.2f} | {shares[0]:.0%} | {shares[1]:.0%} |")
    return "\n".join(lines)


def quick(searches: Figures, networks: dict[str, Any]) -> str:
    """What ``make bench-quick`` prints."""
    head = "| | TFLOP | of peak, calls of the network | of peak, whole stage |\n|---|---:|---:|---:|"
    return f"{_stages(searches)}\n\n{head}\n{_reached(networks)}"
