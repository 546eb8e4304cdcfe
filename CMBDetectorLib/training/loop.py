"""The steps of training, the same for both networks: schedule, averaging, checkpoints, log."""

from __future__ import annotations

import copy
import csv
import hashlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from CMBDetectorLib.errors import Cancelled, InputError
from CMBDetectorLib.models import choose_device, has_native_bfloat16
from CMBDetectorLib.processes import leave_stopping_to_the_parent
from CMBDetectorLib.training.config import Progress, Training

Batch = dict[str, Tensor]

CHECKPOINT = "checkpoint.pt"
LOG = "log.csv"


def fit(
    objective: nn.Module, make_batch: Callable[[int], Batch], config: Training, progress: Progress, *, cases: int = 0
) -> Path:
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
        Called after every step; `Cancelled` raised in it leaves a checkpoint behind.
    cases : int
        How many simulated cases the batches come from, for the record.

    Returns
    -------
    Path
        The checkpoint: step, seconds, cases, checksum of the network that it started from, config, and the states of
        the objective, its average, and the optimizer.
    """
    device = choose_device(config.device)
    torch.backends.cudnn.benchmark = device.type == "cuda"  # all batches have one shape
    bfloat16 = config.bfloat16 and (device.type == "cuda" or has_native_bfloat16())
    # Channels last is what makes 3D convolutions fast in bfloat16 on a CPU (4 times, measured).
    objective = objective.to(device).to(memory_format=torch.channels_last_3d).train()  # type: ignore[call-overload]
    keep(config.kept, objective)
    average = copy.deepcopy(objective).requires_grad_(False)
    optimizer = torch.optim.AdamW(objective.parameters(), config.learning_rate, weight_decay=config.weight_decay)

    config.out.mkdir(parents=True, exist_ok=True)
    path = config.out / CHECKPOINT
    started_from: str | None = None
    if config.initial is not None and not path.exists():
        start_from(config.initial, objective, config.kept)
        started_from = hashlib.sha256(config.initial.read_bytes()).hexdigest()
        average.load_state_dict(objective.state_dict())
    step, seconds = 0, 0.0
    if path.exists():
        try:
            state = torch.load(path, map_location=device, weights_only=True)
            if tuple(state["config"].get("kept", ())) != config.kept:
                raise ValueError("it kept other parts")
            objective.load_state_dict(state["objective"])
            average.load_state_dict(state["average"])
            optimizer.load_state_dict(state["optimizer"])
            step, seconds, started_from = state["step"], state["seconds"], state.get("started_from")
        except (RuntimeError, KeyError, ValueError) as problem:
            reason = str(problem).splitlines()[0]
            raise InputError(f"{path} is of another run ({reason}). Choose an empty folder for 'out'.") from None

    def save() -> None:
        whole = {
            "step": step,
            "seconds": seconds,
            "cases": cases,
            "started_from": started_from,
            "config": {name: _plain(value) for name, value in asdict(config).items()},
            "objective": objective.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        torch.save(whole, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)  # atomic: a power cut leaves the old one or the new one

    started = saved = began = time.monotonic()
    with _log(config.out / LOG, step) as log:
        try:
            for batch in ahead(make_batch, step, config, device):
                rate = learning_rate(step, config)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                    losses = objective({name: each.to(device, non_blocking=True) for name, each in batch.items()})
                torch.stack(list(losses.values())).sum().backward()
                nn.utils.clip_grad_norm_(objective.parameters(), config.gradient_clip, error_if_nonfinite=True)
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
                if config.minutes is not None and (now - started) / 60 >= config.minutes:
                    break
        except (Cancelled, KeyboardInterrupt):
            save()
            raise
    save()
    return path


def start_from(model: Path, objective: nn.Module, kept: Sequence[str] = ()) -> None:
    """Give the objective's network the weights of an exported one; `InputError` when they do not fit.

    Input channels that the exported one did not read start with weights of zero: they change nothing at first. Parts
    that are to be kept must be whole in it.
    """
    try:
        network = objective.get_submodule("network")
        weights, own = torch.jit.load(str(model), map_location="cpu").state_dict(), network.state_dict()
        lacking = set(own) - set(weights)
        first, wanted = next(iter(own.items()))  # the layer that reads the input
        if first in weights and weights[first].shape[1] < wanted.shape[1]:
            unread = torch.zeros_like(wanted[:, weights[first].shape[1] :])
            weights[first] = torch.cat((weights[first], unread), dim=1)
            lacking.add(first)
        if unknown := sorted(name for name in lacking if name.startswith(tuple(f"{part}." for part in kept))):
            raise RuntimeError(f"it lacks {unknown[0]}, or a part of it, which is to be kept")
        found = network.load_state_dict(weights, strict=False)
        if found.unexpected_keys:
            raise RuntimeError(f"it also has {found.unexpected_keys[0]}")
        if {name for name, _ in network.named_parameters()} <= set(found.missing_keys):
            raise RuntimeError("it has nothing in common")
    except (OSError, RuntimeError, ValueError, AttributeError) as problem:
        reason = str(problem).splitlines()[0]
        raise InputError(f"{model} does not hold the weights of this network ({reason}).") from None


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
    """One CSV line per step; lines that a stopped run wrote after its checkpoint are dropped."""
    kept: list[list[str]] = []
    if path.exists() and step:
        with path.open(newline="", encoding="utf-8") as file:
            kept = [row for row in csv.reader(file) if row and (row[0] == "step" or int(row[0]) <= step)]
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


def _plain(value: object) -> object:
    """Give a value that a checkpoint holds without naming one of our classes."""
    return str(value) if isinstance(value, Path) else value
