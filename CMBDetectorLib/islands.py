"""Regions without islands, holes and specks: pieces too small to be anatomy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from skimage.measure import label as label_pieces

from CMBDetectorLib.networks.segmenter import CLASSES
from CMBDetectorLib.preprocessing import largest_component

SPECK_ML = 0.01  # five voxels of the network's grid
ISLAND_ML = 0.3  # smaller detached pieces of a region are mistakes of the network


def without_islands(probability: npt.NDArray[np.float32], voxel_ml: float) -> npt.NDArray[np.float32]:
    """Class probabilities (14, R, A, S) after which no region has small detached pieces, nor the brain small holes.

    The brain is its largest connected piece. A small piece of a region, or a hole, goes to whichever class is next most
    probable in each of its voxels: a large microbleed is black, but no reason to call its place outside the brain.
    """
    probability = probability.copy()
    labels = torch.from_numpy(probability).max(dim=0).indices.numpy()
    tissue = labels > 0
    detached = tissue & ~largest_component(tissue)
    probability[1:, detached] = 0
    probability[0, detached] = 1
    labels[detached] = 0
    emptied = small_pieces(labels.astype(np.uint8), ISLAND_ML / voxel_ml, connectivity=1)
    probability[(labels[emptied], *np.nonzero(emptied))] = 0
    probability[:, emptied] /= np.maximum(probability[:, emptied].sum(axis=0), np.finfo(np.float32).tiny)
    return probability


def small_pieces(labels: npt.NDArray[np.uint8], voxels: float, connectivity: int) -> npt.NDArray[np.bool_]:
    """Detached pieces of fewer voxels, joined by faces (1) or corners, too (3); the largest of a label stays.

    Parameters
    ----------
    labels : ndarray of uint8, shape (R, A, S)
        MARS, 0 to 13.
    voxels : float
        Pieces of as many are not small.
    connectivity : int
        1 joins voxels by faces, 2 by edges too, 3 by corners too.

    Returns
    -------
    ndarray of bool, shape (R, A, S)
        True in the small pieces.
    """
    pieces = label_pieces(labels, background=CLASSES, connectivity=connectivity)
    sizes = np.bincount(pieces.ravel())
    label_of = np.zeros(len(sizes), np.uint8)
    label_of[pieces.ravel()] = labels.ravel()
    largest = np.zeros(CLASSES, int)
    np.maximum.at(largest, label_of, sizes)
    small: npt.NDArray[np.bool_] = (sizes < voxels) & (sizes < largest[label_of])
    return small[pieces]


def _specks(labels: npt.NDArray[np.uint8], voxels: float) -> npt.NDArray[np.bool_]:
    """`small_pieces` joined by corners, in a fifth of the time: only what is small when joined by faces can be one."""
    small = small_pieces(labels, voxels, connectivity=1)
    pieces = label_pieces(np.where(small, labels, CLASSES), background=CLASSES, connectivity=3)
    is_speck = np.bincount(pieces.ravel()) < voxels
    is_speck[0] = False
    large = np.pad(np.where(small, CLASSES, labels), 1, constant_values=CLASSES)
    places = np.argwhere(small)
    for step in np.ndindex(3, 3, 3):  # to all 26 neighbors, and itself, which is small
        joined = large[tuple((places + step).T)] == labels[small]
        is_speck[pieces[small][joined]] = False
    return is_speck[pieces]


def without_specks(labels: npt.NDArray[np.uint8], voxel_ml: float) -> npt.NDArray[np.uint8]:
    """Label map (R, A, S) without pieces under `SPECK_ML`: they go to the label most common beside them.

    Interpolation to the scan leaves specks where three regions meet. Thin sheets stay: pieces are joined by corners.
    """
    padded = np.pad(labels, 1)
    rest = np.pad(_specks(labels, SPECK_ML / voxel_ml), 1)
    outside = np.pad(np.zeros(labels.shape, bool), 1, constant_values=True)
    while rest.any():
        places = np.argwhere(rest)
        votes = np.zeros((len(places), CLASSES), int)
        for step in np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)]):
            beside = tuple((places + step).T)
            counts = ~(rest[beside] | outside[beside])
            votes[np.flatnonzero(counts), padded[beside][counts]] += 1
        decided = votes.any(axis=1)
        padded[tuple(places[decided].T)] = votes[decided].argmax(axis=1)
        rest[tuple(places[decided].T)] = False
    return padded[1:-1, 1:-1, 1:-1]
