"""Many simulated cases in a folder: heads in turn, protocols in turn, one seed each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from CMBDetectorLib.errors import InputError
from CMBDetectorLib.simulation.case import render, write_case
from CMBDetectorLib.simulation.heads import list_heads, load_head
from CMBDetectorLib.simulation.montage import montage
from CMBDetectorLib.simulation.protocols import PROTOCOLS, Protocol, vary
from CMBDetectorLib.simulation.vessels import VesselTree, grow_vessels

BURDENS = ("realistic", "none", "many", "training")  # training: many and none in turn
Progress = Callable[[str, float, str], None]


def simulate(
    heads_dir: Path,
    out: Path,
    *,
    cases: int,
    seed: int = 0,
    protocol: str = "all",
    varied: bool = False,
    burden: str = "realistic",
    heads: Sequence[str] | None = None,
    device: str = "cpu",
    pictures: bool = False,
    progress: Progress = lambda stage, fraction, message: None,
) -> None:
    """Render ``case_0000``, ``case_0001``, ... into `out`; a case that is already there is kept.

    Case n uses head n (cyclically), a protocol of its kind, so that every head meets every protocol in turn, and the
    seed ``seed + n``; so any range of cases can be rendered apart. It is the same to the bit on the same type of device
    with the same number of threads.

    Parameters
    ----------
    protocol : str
        A name in `PROTOCOLS`, or ``all``.
    varied : bool
        Draw each case's protocol from the range around the named one.
    burden : str
        One of `BURDENS`, or a number of microbleeds.
    pictures : bool
        Also write ``montage.png`` into every case.
    """
    names = list(heads or list_heads(heads_dir))
    if protocol != "all" and protocol not in PROTOCOLS:
        raise InputError(f"There is no protocol '{protocol}'; choose all or one of {', '.join(PROTOCOLS)}.")
    if burden not in BURDENS and not burden.isdigit():
        raise InputError(f"There is no burden '{burden}'; give a number or one of {', '.join(BURDENS)}.")
    kinds = list(PROTOCOLS.values()) if protocol == "all" else [PROTOCOLS[protocol]]
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    grown: dict[str, tuple[VesselTree, ...]] = {}
    for n in range(cases):
        folder = out / f"case_{n:04d}"
        name = names[n % len(names)]
        progress("simulate", n / cases, f"case {n + 1} of {cases}, head {name}")
        if (folder / "truth.json").exists():
            continue
        head = load_head(heads_dir, name)
        if name not in grown:
            grown[name] = grow_vessels(head, seed=int(name) if name.isdigit() else 0)
        kind = protocol_of(n, names, kinds)
        if varied:
            kind = vary(kind, np.random.default_rng([seed, n]))
        load = ("many", "none")[(n // len(names)) % 2] if burden == "training" else burden
        case = render(head, grown[name], kind, seed + n, load, device)
        if pictures:
            folder.mkdir(parents=True, exist_ok=True)
            montage(case).save(folder / "montage.png")
        write_case(case, folder)
    progress("simulate", 1.0, f"{cases} cases in {out}")


def protocol_of(case: int, heads: Sequence[str], protocols: Sequence[Protocol]) -> Protocol:
    """Protocol of a case: every head meets every protocol, one round of the heads after another."""
    return protocols[(case % len(heads) + case // len(heads)) % len(protocols)]
