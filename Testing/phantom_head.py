"""A crude head of ellipsoids with every label that the simulator asks for: small, fast, and free to publish."""

from __future__ import annotations

import numpy as np

from CMBDetectorLib.simulation.heads import Head


def phantom_head(name: str = "phantom") -> Head:
    """An ellipsoid brain of 64 x 80 x 60 mm in a 96 x 112 x 88 mm grid at 1 mm, R, A, S order."""
    shape = (96, 112, 88)
    grid = np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij"))
    middle = np.array([47.5, 55.5, 46.0])

    def inside(center: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
        moved = (grid - (middle + center)[:, None, None, None]) / np.array(radii)[:, None, None, None]
        return (moved**2).sum(axis=0) < 1

    left = grid[0] < middle[0]
    labels = np.zeros(shape, np.int16)
    mars = np.zeros(shape, np.uint8)
    labels[inside((0, 0, 0), (43, 52, 41))] = 511
    labels[inside((0, 0, 0), (40, 49, 38))] = 515
    labels[inside((0, 0, 0), (35, 43, 33))] = 24
    labels[inside((0, -42, 4), (3, 3, 22))] = 514

    def put(where: np.ndarray, left_label: int, right_label: int, region: int) -> None:
        labels[where & left], labels[where & ~left] = left_label, right_label
        mars[where] = region

    put(inside((0, 0, 0), (32, 40, 30)), 3, 42, 9)
    put(inside((0, 0, 0), (29, 37, 27)), 2, 41, 9)
    mars[(mars == 9) & (grid[1] < middle[1] - 10)] = 12
    for x in (-9, 9):
        put(inside((x, 8, 4), (5, 7, 6)), 12, 51, 3)
        put(inside((x * 0.8, 6, 2), (3, 4, 4)), 13, 52, 3)
        put(inside((x, 14, 9), (3, 5, 4)), 11, 50, 3)
        put(inside((x, -4, 4), (5, 7, 5)), 10, 49, 4)
        put(inside((x * 0.8, -4, -4), (4, 4, 3)), 28, 60, 4)
        put(inside((x, -24, -18), (9, 10, 8)), 8, 47, 2)
        put(inside((x, -24, -18), (6, 6, 5)), 7, 46, 2)
        put(inside((x * 0.7, 4, 14), (4, 14, 4)), 4, 43, 0)
        put(inside((x * 0.7, -4, 13), (2, 3, 1)), 163, 164, 0)
    put(inside((0, -8, -18), (6, 6, 12)), 16, 16, 1)
    put(inside((0, -6, 4), (2, 6, 4)), 14, 14, 0)
    return Head(name, labels, mars)
