"""The steps of training, the same for both networks: schedule, averaging, checkpoints, log."""

from __future__ import annotations

import copy
import csv
import hashlib
import math
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from CMBDetectorLib.errors import Cancelled, InputError
from CMBDetectorLib.interruption import signals_held
from CMBDetectorLib.models import choose_device, has_native_bfloat16
from CMBDetectorLib.networks.adapters import hold_adapted, is_adapter, merged
from CMBDetectorLib.processes import leave_stopping_to_the_parent
from CMBDetectorLib.training.config import Progress, Training

Batch = dict[str, Tensor]

CHECKPOINT = "checkpoint.pt"
LOG = "log.csv"
# Options that may differ when a run goes on. Cases and heads are compared, not where they lie.
MAY_DIFFER = ("out", "cases", "cache", "heads", "initial", "minutes", "checkpoint_minutes", "device", "loaders")


def fit(
    objective: nn.Module, make_batch: Callable[[int], Batch], config: Training, progress: Progress, *,
    cases: Sequence[str] = (), heads: Sequence[str] = (),
) -> Path:  # fmt: skip
    """Train until the last step, or until the wall time is used up; goes on from the checkpoint if there is one.

    Parameters
    ----------
    objective : nn.Module
        Takes a batch and returns its weighted losses by name; their sum is minimized.
    make_batch : callable
        The batch of a step, from the seed and the step alone. So a run that was stopped anywhere ends in the same
        weights as one that was not.
    config : Training
    progress : callable
        Called after every step; `Cancelled` raised in it leaves a checkpoint behind. So does a signal to stop: the step
        that it comes in is finished first.
    cases, heads : sequence of str
        Names of the simulated cases and of the heads that the batches come from: for the record, and a run goes on with
        the same ones only.

    Returns
    -------
    Path
        The checkpoint: step, seconds, number and names of the cases, heads, checksum of the network that it started
        from, config, and the states of the objective, its average, and the optimizer.

    Raises
    ------
    InputError
        The checkpoint is damaged or of a run with other options, cases or heads; or the loss is no longer finite.
    """
    device = choose_device(config.device)
    torch.backends.cudnn.benchmark = device.type == "cuda"  # all batches have one shape
    bfloat16 = config.bfloat16 and (device.type == "cuda" or has_native_bfloat16())
    # Channels last is what makes 3D convolutions fast in bfloat16 on a CPU (4 times, measured).
    objective = objective.to(device).to(memory_format=torch.channels_last_3d).train()  # type: ignore[call-overload]
    keep(config.kept, objective)
    hold_adapted(objective)
    average = copy.deepcopy(objective).requires_grad_(False)
    optimizer = torch.optim.AdamW(objective.parameters(), config.learning_rate, weight_decay=config.weight_decay)

    config.out.mkdir(parents=True, exist_ok=True)
    path = config.out / CHECKPOINT
    run = {
        "cases": len(cases),
        "case_names": [*cases],
        "heads": [*heads],
        "config": {name: _plain(value) for name, value in asdict(config).items()},
    }
    step, seconds = 0, 0.0
    started_from: str | None = None
    if path.exists():
        state = _checkpoint_of(path, run, config)
        try:
            objective.load_state_dict(state["objective"])
            average.load_state_dict(state["average"])
            optimizer.load_state_dict(state["optimizer"])
            step, seconds, started_from = state["step"], state["seconds"], state.get("started_from")
        except (RuntimeError, KeyError, ValueError) as problem:
            raise _of_another_run(path, _last_line(problem)) from None
    elif config.initial is not None:
        start_from(config.initial, objective, config.kept)
        started_from = hashlib.sha256(config.initial.read_bytes()).hexdigest()
        average.load_state_dict(objective.state_dict())

    def save() -> None:
        whole = {
            **run,
            "step": step,
            "seconds": seconds,
            "started_from": started_from,
            "objective": objective.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        with path.with_suffix(".part").open("wb") as file:
            torch.save(whole, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(path.with_suffix(".part"), path)  # atomic: a power cut leaves the old one or the new one

    started = saved = began = time.monotonic()
    with signals_held() as signals, _log(config.out / LOG, step) as log:
        try:
            for batch in ahead(make_batch, step, config, device):
                rate = learning_rate(step, config)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                    losses = objective({name: each.to(device, non_blocking=True) for name, each in batch.items()})
                torch.stack(list(losses.values())).sum().backward()
                if not nn.utils.clip_grad_norm_(objective.parameters(), config.gradient_clip).isfinite():
                    raise InputError(
                        f"The loss of step {step + 1}, or its gradient, is not finite. Lower 'learning_rate' (it is "
                        f"{config.learning_rate:g}) and begin again in an empty folder for 'out'."
                    )
                optimizer.step()
                _average(average, objective, config.average, step)
                now = time.monotonic()
                took, began = now - began, now  # waiting for the batch included
                step, seconds = step + 1, seconds + took
                log(step, {name: loss.item() for name, loss in losses.items()}, rate, took)
                if (now - saved) / 60 >= config.checkpoint_minutes:
                    save()
                    saved = now
                progress("train", step / config.steps, f"step {step} of {config.steps}, {took:.1f} s")
                if signals or (config.minutes is not None and (now - started) / 60 >= config.minutes):
                    break
        except Cancelled:
            save()
            raise
        save()
    return path


def _checkpoint_of(path: Path, run: dict[str, Any], config: Training) -> dict[str, Any]:
    """Read the checkpoint of a run; `InputError` when it is damaged, or of a run with other options, cases or heads.

    What an older one does not say counts as the default (options) or as the same (cases, heads).
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        had = {**{field.name: field.default for field in fields(config)}, **state["config"]}
    except (OSError, EOFError, RuntimeError, LookupError, TypeError, ValueError, pickle.UnpicklingError):
        raise InputError(
            f"{path} is damaged and cannot be continued. Put a copy in its place, or choose an empty folder for 'out'."
        ) from None
    for name, value in run["config"].items():
        if name not in MAY_DIFFER and had[name] != value:
            raise _of_another_run(path, f"its '{name}' is {had[name]!r}, not {value!r}")
    for kind, names in (("case", "case_names"), ("head", "heads")):
        if odd := sorted(set(state.get(names, run[names])) ^ set(run[names])):
            raise _of_another_run(path, f"only one of the two has the {kind} '{odd[0]}'")
    return state


def _of_another_run(path: Path, reason: str) -> InputError:
    return InputError(f"{path} is of another run ({reason}). Go on as it began, or choose an empty folder for 'out'.")


def start_from(model: Path, objective: nn.Module, kept: Sequence[str] = ()) -> None:
    """Give the objective's network the weights of an exported one; `InputError` when they do not fit.

    Input channels that the exported one did not read start with weights of zero, in every layer that reads the input:
    they change nothing at first. Parts that are to be kept must be whole in it, and with adapters all of it.
    """
    try:
        network = objective.get_submodule("network")
        weights, own = torch.jit.load(str(model), map_location="cpu").state_dict(), network.state_dict()
        had, has = ({name: v.shape for name, v in each.items() if is_adapter(name)} for each in (weights, own))
        if had != has:  # of another rank, beside other kernels, or none: this run's adapters begin anew
            weights = merged(weights)
        lacking = set(own) - set(weights) - set(has)
        first = next(iter(own), "")  # reads the input; so do layers that grew as it did
        reads = {name: (weights[name].shape[1:2], own[name].shape[1:2]) for name in own if name in weights}
        for name, (before, now) in reads.items():
            if before < now and reads[name] == reads.get(first):
                known = weights[name]
                unread = known.new_zeros((len(known), now[0] - before[0], *known.shape[2:]))
                weights[name] = torch.cat((known, unread), dim=1)
                lacking.add(name)
        if unknown := sorted(name for name in lacking if name.startswith(tuple(f"{part}." for part in kept))):
            raise RuntimeError(f"it lacks {unknown[0]}, or a part of it, which is to be kept")
        if has and lacking:
            raise RuntimeError(f"it lacks {min(lacking)}, or a part of it; with 'rank' it must be whole")
        found = network.load_state_dict(weights, strict=False)
        if found.unexpected_keys:
            raise RuntimeError(f"it also has {found.unexpected_keys[0]}")
        if {name for name, _ in network.named_parameters()} <= set(found.missing_keys):
            raise RuntimeError("it has nothing in common")
    except (OSError, RuntimeError, ValueError, AttributeError) as problem:
        raise InputError(f"{model} does not hold the weights of this network ({_last_line(problem)}).") from None


def keep(names: Sequence[str], objective: nn.Module) -> None:
    """Leave parts of the network as they are, their batch statistics too; `InputError` when it has no such part."""
    for name in names:
        try:
            objective.get_submodule(f"network.{name}").requires_grad_(False).eval()
        except AttributeError:
            parts = ", ".join(part for part, _ in objective.get_submodule("network").named_children())
            raise InputError(f"The network has no part '{name}' to keep; it has {parts}.") from None


def learning_rate(step: int, config: Training) -> float:
    """Linear rise over the warm-up, then a cosine fall to a hundredth of the peak."""
    warmup = max(1, round(config.warmup * config.steps))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, config.steps - warmup)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


@torch.no_grad()
def _average(average: nn.Module, module: nn.Module, decay: float, step: int) -> None:
    """Move the running average toward the weights; faster in the first steps, whose weights are soon outdated."""
    share = max(1 - decay, 1 / (1 + step))
    for mean, value in zip(average.state_dict().values(), module.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, share)
        else:
            mean.copy_(value)


class _Steps(Dataset[Batch]):
    """The batches of a run, by step."""

    def __init__(self, make_batch: Callable[[int], Batch]) -> None:
        self.make_batch = make_batch

    def __getitem__(self, step: int) -> Batch:
        return self.make_batch(step)


def ahead(make_batch: Callable[[int], Batch], first: int, config: Training, device: torch.device) -> DataLoader[Batch]:
    """Batches of the steps from `first` on, prepared in processes while the network computes.

    Forks share the cases that are mapped from files; where there are none (Windows) or no safe ones (macOS), the
    training process prepares its batches itself.
    """
    loaders = config.loaders if sys.platform == "linux" else 0
    return DataLoader(
        _Steps(make_batch),
        batch_size=None,
        sampler=range(first, config.steps),
        num_workers=loaders,
        multiprocessing_context="fork" if loaders else None,
        worker_init_fn=_begin_loading if loaders else None,
        pin_memory=device.type == "cuda",
    )


def _begin_loading(loader: int) -> None:
    leave_stopping_to_the_parent()  # torch takes a loader that a signal ended for a fault of the run


@contextmanager
def _log(path: Path, step: int) -> Iterator[Callable[[int, dict[str, float], float, float], None]]:
    """One CSV line per step; lines that a stopped run wrote after its checkpoint, or not whole, are dropped."""
    kept: list[list[str]] = []
    if path.exists() and step:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            rows = [row for row in csv.reader(line for line in file if "\0" not in line) if row]
        whole = [row for row in rows if len(row) == len(rows[0])]
        kept = [row for row in whole if row[0] == "step" or (row[0].isdecimal() and int(row[0]) <= step)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows(kept)

        def write(step: int, losses: dict[str, float], rate: float, seconds: float) -> None:
            if file.tell() == 0:
                writer.writerow(["step", *losses, "learning_rate", "seconds"])
            values = [f"{value:.5g}" for value in losses.values()]
            writer.writerow([step, *values, f"{rate:.4g}", f"{seconds:.2f}"])
            file.flush()

        yield write


def _last_line(problem: Exception) -> str:
    """What went wrong, of torch's long messages the last line: the first says only that there is a problem."""
    return (str(problem).strip() or type(problem).__name__).splitlines()[-1].strip().rstrip(".")


def _plain(value: object) -> object:
    """Give a value that a checkpoint holds without naming one of our classes."""
    return str(value) if isinstance(value, Path) else value
