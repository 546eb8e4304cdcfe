"""Convolutional Prototype Learning (Yang et al., CVPR 2018) for hard samples (HSPL, Kim et al., arXiv 2306.13020).

Used in training alone: features of true microbleeds are drawn to one prototype, those of the hardest places in
lesion-free crops (mimics) to another.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

CMB, MIMIC = 0, 1


class Prototypes(nn.Module):
    """Two learned prototypes and the concentration loss L_con = L_DCE + weight * L_PL.

    With squared distances d_k = ||f - m_k||^2 / n, L_DCE is the cross-entropy of the logits -d_k / T and
    L_PL = d_y / 2 (Yang et al. 2018, eq. 6-9, T = 1, weight 0.001). Division by the length n of the vector is ours:
    it keeps distances near 1 for features that left a batch normalization.

    Parameters
    ----------
    features : int
        Length of a feature vector.
    temperature, weight : float
        T and the weight of L_PL.
    """

    def __init__(self, features: int, temperature: float = 1.0, weight: float = 0.001) -> None:
        super().__init__()
        self.means = nn.Parameter(0.5 * torch.randn(2, features).abs())  # features are not negative (ReLU)
        self.temperature = temperature
        self.weight = weight

    def distances(self, features: Tensor) -> Tensor:
        """Squared distance per dimension to each prototype, (N, features) -> (N, 2)."""
        return (features.float()[:, None] - self.means).square().mean(dim=-1)

    def forward(self, features: Tensor, kind: Tensor) -> Tensor:
        """L_con, averaged over samples; zero when there are none.

        Parameters
        ----------
        features : Tensor, shape (N, features)
        kind : Tensor, shape (N,), int64
            `CMB` or `MIMIC`.
        """
        if len(features) == 0:
            return self.means.sum() * 0.0
        distances = self.distances(features)
        dce = functional.cross_entropy(-distances / self.temperature, kind)
        concentration = 0.5 * distances.gather(1, kind[:, None]).mean()
        return dce + self.weight * concentration
