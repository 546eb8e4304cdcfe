"""What the detector's final feature map and its levels say around one place (Kim et al., Figs. 6 and 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from CMBDetectorLib.models import Model
from CMBDetectorLib.networks.anchors import MULTIPLE, SPACING_MM, STRIDE, cell_centers_mm
from CMBDetectorLib.networks.detector import Detector
from CMBDetectorLib.preprocessing import NetworkInput

CROP = (96, 96, 48)  # voxels, 48 mm: what a place's answer depends on, at a fraction of a tile's cost
NEAR_MM = 3.0  # the cell that answers for a place lies so close to it

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Crop:
    """A part of the detector's input around a place.

    Attributes
    ----------
    image : Tensor, shape (3, R, A, S)
    place_mm : ndarray, shape (3,)
        The place, from the center of the crop's voxel 0.
    """

    image: Tensor
    place_mm: npt.NDArray[np.float64]

    @classmethod
    def around(cls, network_input: NetworkInput, center_ras_mm: npt.ArrayLike) -> Crop:
        """Cut a crop that starts where tiles may start, so that pooling falls on the same voxels as in a search."""
        voxel = (np.linalg.inv(network_input.ijk_to_ras) @ [*np.asarray(center_ras_mm, float), 1.0])[:3]
        start = np.rint((voxel - np.array(CROP) / 2) / MULTIPLE).astype(int) * MULTIPLE
        image = np.zeros((len(network_input.array), *CROP), np.float32)
        shape = network_input.array.shape[1:]
        spans = [(max(0, a), max(0, a, min(n, a + c))) for a, n, c in zip(start, shape, CROP, strict=True)]
        inside = tuple(slice(a, b) for a, b in spans)
        place = tuple(slice(a - s, b - s) for (a, b), s in zip(spans, start, strict=True))
        image[(slice(None), *place)] = network_input.array[(slice(None), *inside)]
        return cls(torch.from_numpy(image), (voxel - start) * SPACING_MM)


def feature_vectors(model: Model, crops: Sequence[Crop]) -> Array:
    """Vectors (N, 48) of the final feature map, each at the most probable cell within 3 mm of the crop's place."""
    vectors = []
    for crop in crops:
        network = _network(model)
        with torch.inference_mode():
            features = network.forward_features(_batch(model, crop))
            logits = network.head(features)[0][0].float().amax(dim=0).cpu()
        distance_mm = np.linalg.norm(cell_centers_mm(_cells()) - crop.place_mm, axis=-1)
        far = torch.from_numpy(distance_mm > max(NEAR_MM, float(distance_mm.min())))
        cell = int(logits.masked_fill(far, -torch.inf).argmax())
        vectors.append(features[0].flatten(1)[:, cell].float().cpu().numpy())
    return np.array(vectors)


def level_maps(model: Model, crop: Crop) -> dict[str, Array]:
    """Probability maps (r, a, s) that single decoder levels give, and all together.

    The map of one level is what the head answers when only that level's term of the sum changes from place to place;
    the two others are replaced by their mean over the crop. Without fusion there is the finest level alone.
    """
    network = _network(model)
    with torch.inference_mode():
        _, d1, d2, d3 = network.levels(_batch(model, crop))
        if network.fusion is None:
            return {"2 mm alone": _probability(network, d3)}
        fusion = network.fusion
        terms = {"8 mm": fusion.from_8_mm(d1), "4 mm": fusion.from_4_mm(d2), "2 mm": fusion.from_2_mm(d3)}
        means = {name: term.mean(dim=(2, 3, 4), keepdim=True) for name, term in terms.items()}
        total = torch.stack(list(means.values())).sum(dim=0)
        maps = {name: _probability(network, term - means[name] + total) for name, term in terms.items()}
        return {**maps, "fused": _probability(network, torch.stack(list(terms.values())).sum(dim=0))}


def _probability(network: Detector, final: Tensor) -> Array:
    logits = network.head(network.proposal(final))[0][0]
    return torch.sigmoid(logits.float()).amax(dim=0).cpu().numpy()


def _network(model: Model) -> Detector:
    network = model.module
    assert isinstance(network, Detector)
    return network


def _batch(model: Model, crop: Crop) -> Tensor:
    return crop.image[None].to(model.device, model.dtype, memory_format=torch.channels_last_3d)


def _cells() -> tuple[int, int, int]:
    r, a, s = (size // stride for size, stride in zip(CROP, STRIDE, strict=True))
    return r, a, s
