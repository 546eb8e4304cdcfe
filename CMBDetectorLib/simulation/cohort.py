"""Many simulated cases in a folder: heads in turn, protocols in turn, one seed each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from CMBDetectorLib.errors import InputError
from CMBDetectorLib.output_folder import make_folder
from CMBDetectorLib.processes import in_processes
from CMBDetectorLib.simulation.case import render, write_case
from CMBDetectorLib.simulation.heads import atrophied, list_heads, load_head
from CMBDetectorLib.simulation.montage import montage
from CMBDetectorLib.simulation.protocols import PROTOCOLS, Protocol, vary
from CMBDetectorLib.simulation.truth import truth_of
from CMBDetectorLib.simulation.vessels import VesselTree, grow_vessels

BURDENS = ("realistic", "none", "many", "training")  # training: many and none in turn
SEEDS_APART = 1000  # those of the vessel trees that one head has
Progress = Callable[[str, float, str], None]


@dataclass(frozen=True)
class Plan:
    """What one case shows and where it goes; `vessel_seed` is that of the set of vessel trees drawn for it."""

    folder: Path
    head: str
    vessel_seed: int
    protocol: Protocol
    seed: int
    burden: str
    atrophy: bool = False


def simulate(
    heads_dir: Path,
    out: Path,
    *,
    cases: int,
    seed: int = 0,
    protocol: str = "all",
    varied: bool = False,
    atrophy: bool = False,
    burden: str = "realistic",
    heads: Sequence[str] | None = None,
    vessels: int = 1,
    device: str = "cpu",
    processes: int = 1,
    pictures: bool = False,
    progress: Progress = lambda stage, fraction, message: None,
) -> None:
    """Render ``case_0000``, ``case_0001``, ... into `out`; a case that is already there is kept.

    Case n uses head n (cyclically), a protocol of its kind, so that every head meets every protocol in turn, and the
    seed ``seed + n``, and draws one of the head's sets of vessels; so any range of cases can be rendered apart. It is
    the same to the bit on the same type of device with the same number of threads. Sets of the same heads whose seeds
    differ by less than their number of cases can share heads and seeds, and thus cases.

    Parameters
    ----------
    protocol : str
        A name in `PROTOCOLS`, or ``all``.
    varied : bool
        Draw each case's protocol from the range around the named one.
    atrophy : bool
        Take cortex away, each case's in its own way (`heads.atrophied`).
    burden : str
        One of `BURDENS`, or a number of microbleeds.
    vessels : int
        How many sets of vessel trees every head has; each case draws one.
    processes : int
        How many cases are rendered at a time; several compute with one thread each.
    device : str
        ``cpu`` or ``cuda``.
    pictures : bool
        Also write ``montage.png`` into every case.

    Raises
    ------
    OutputError
        Nothing can be written to `out`.
    InputError
        An option is none of those named, or `out` holds a case of another head, seed, protocol, burden or set of
        vessels, or with another atrophy.
    """
    names = list(heads or list_heads(heads_dir))
    if protocol != "all" and protocol not in PROTOCOLS:
        raise InputError(f"There is no protocol '{protocol}'; choose all or one of {', '.join(PROTOCOLS)}.")
    if burden not in BURDENS and not burden.isdigit():
        raise InputError(f"There is no burden '{burden}'; give a number or one of {', '.join(BURDENS)}.")
    if min(vessels, processes) < 1:
        raise InputError(f"There are {vessels} sets of vessels and {processes} processes; give 1 or more of both.")
    kinds = list(PROTOCOLS.values()) if protocol == "all" else [PROTOCOLS[protocol]]
    every = (
        plan(out, n, names, kinds, seed, varied=varied, atrophy=atrophy, burden=burden, vessels=vessels)
        for n in range(cases)
    )
    make_folder(out)
    plans = [each for each in every if not _is_there(each)]
    with in_processes(processes) as run:
        heads_and_seeds = sorted({(each.head, each.vessel_seed) for each in plans})
        progress("simulate", 0.0, f"{len(heads_and_seeds)} sets of vessels")
        grown = dict(run(partial(_grow, heads_dir), heads_and_seeds))
        jobs = [(each, grown[each.head, each.vessel_seed]) for each in plans]
        progress("simulate", 0.0, f"{len(plans)} cases")
        for n, name in enumerate(run(partial(_render, heads_dir, device, pictures), jobs), start=1):
            if n < len(plans):
                progress("simulate", n / len(plans), f"{name}, {n} of {len(plans)} done")
    progress("simulate", 1.0, f"{cases} cases in {out}")


def _is_there(planned: Plan) -> bool:
    """Whether a planned case has been rendered before; raises `InputError` when its folder holds another one."""
    if not (planned.folder / "truth.json").exists():
        return False
    truth, protocol = truth_of(planned.folder), planned.protocol
    wanted = {"head": planned.head, "seed": planned.seed, "protocol": protocol.name, "burden": planned.burden}
    # An older truth says neither the burden nor the vessels.
    odd = [f"{name} is {truth[name]}, not {value}" for name, value in wanted.items() if truth.get(name, value) != value]
    if truth["echo_time_ms"] != protocol.echo_time_ms:
        odd.append("its protocol was varied in another way")
    if truth.get("vessel_seed", planned.vessel_seed) != planned.vessel_seed:
        odd.append("it has another set of vessels")
    if truth.get("atrophy", False) != planned.atrophy:
        odd.append("it was made without atrophy" if planned.atrophy else "it was made with atrophy")
    if odd:
        raise InputError(f"{planned.folder} holds another case: {odd[0]}. Give another folder, or delete it.")
    return True


def _grow(heads_dir: Path, head_and_seed: tuple[str, int]) -> tuple[tuple[str, int], tuple[VesselTree, ...]]:
    """Give a head's name and a seed with the vessel trees that grow from them."""
    head, seed = head_and_seed
    return head_and_seed, grow_vessels(load_head(heads_dir, head), seed)


def _render(heads_dir: Path, device: str, pictures: bool, job: tuple[Plan, tuple[VesselTree, ...]]) -> str:
    """Render one case into its folder; return the folder's name."""
    planned, trees = job
    head = load_head(heads_dir, planned.head)
    if planned.atrophy:
        head = atrophied(head, np.random.default_rng([planned.seed, 1]))
    case = render(head, trees, planned.protocol, planned.seed, planned.burden, device)
    case.truth.update({"vessel_seed": planned.vessel_seed, "atrophy": planned.atrophy})
    if pictures:
        planned.folder.mkdir(parents=True, exist_ok=True)
        montage(case).save(planned.folder / "montage.png")
    write_case(case, planned.folder)
    return planned.folder.name


def plan(
    out: Path,
    case: int,
    heads: Sequence[str],
    protocols: Sequence[Protocol],
    seed: int,
    *,
    varied: bool,
    atrophy: bool,
    burden: str,
    vessels: int,
) -> Plan:
    """Decide what one case of `simulate` shows; the case's number and these options decide it alone."""
    head, turn = heads[case % len(heads)], case // len(heads)
    protocol = protocol_of(case, heads, protocols)
    if varied:
        protocol = vary(protocol, np.random.default_rng([seed, case]))
    # Drawn, not in turn: no set of vessels may go with a burden or a protocol.
    vessel_set = int(np.random.default_rng([seed, case, 1]).integers(vessels))
    vessel_seed = (int(head) if head.isdigit() else 0) + SEEDS_APART * vessel_set
    if burden == "training":
        burden = ("many", "none")[turn % 2]
    return Plan(out / f"case_{case:04d}", head, vessel_seed, protocol, seed + case, burden, atrophy)


def protocol_of(case: int, heads: Sequence[str], protocols: Sequence[Protocol]) -> Protocol:
    """Protocol of a case: every head meets every protocol, one round of the heads after another."""
    return protocols[(case % len(heads) + case // len(heads)) % len(protocols)]
