"""What a network answers to a whole input at every scale, without tiles; the scales have tests of their own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from CMBDetectorLib.networks.anchors import MULTIPLE
from CMBDetectorLib.scales import SCALES, at_full_size, scaled


def looks(ask: Callable[[Tensor], Tensor], array: np.ndarray, stride: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Mean over the scales of the log odds (r, a, s) of the best anchor, and the answer (N, C, r, a, s) to the first.

    `ask` is given an input (1, C, R, A, S) that is filled up to whole blocks; the answer's cells there are dropped.
    """
    answers: list[Tensor] = []
    log_odds = []
    for scale in SCALES:
        look = scaled(torch.from_numpy(array), scale)
        padding = [n for length, m in zip(look.shape[:0:-1], MULTIPLE[::-1], strict=True) for n in (0, -length % m)]
        with torch.inference_mode():
            answer = ask(functional.pad(look, padding)[None])
        r, a, s = (-(-length // step) for length, step in zip(look.shape[1:], stride, strict=True))
        answers.append(answer[..., :r, :a, :s])
        log_odds.append(at_full_size(answers[-1][:, 0].amax(dim=0), scale, tuple(answers[0].shape[2:])))
    return torch.stack(log_odds).mean(dim=0), answers[0]
