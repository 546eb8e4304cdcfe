"""Cerebral veins and arteries as continuous trees, and their partial-volume map.

A tree is the union of cheapest paths (Dijkstra) from many leaves to a root through a cost map of the anatomy, so
veins join as they drain: medullary veins run radially to the ventricle and along its wall to the internal cerebral
veins; cortical veins run in sulci and over the surface to a dural sinus. Arteries leave the circle of Willis and
run in the cisterns and sulci. The radius is proportional to the number of leaves behind to the power of 1 / 2.7;
by Murray's law it would be 1 / 3. This construction is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from skimage.graph import MCP_Geometric

from CMBDetectorLib.simulation import heads
from CMBDetectorLib.simulation.heads import Head, PlacedHead

SPAN = 3  # edges (about 1 mm each) over which a vessel's direction is taken
STEEP = 0.85  # of its length along the slice normal: a vessel seen end-on
BENT = 0.4  # cosine between the directions before and after a bend
SMALLEST_RADIUS_MM = 0.25  # a vessel thinner than this is no mimic
LANDMARKS_APART_MM, MOST_LANDMARKS = 4.0, 60  # of one kind


@dataclass(frozen=True, eq=False)
class VesselTree:
    """Nodes and the paths of all leaves to the root, in the undeformed head.

    Attributes
    ----------
    nodes_mm : ndarray, shape (N, 3)
        Positions, voxels = mm of the head.
    parent : ndarray of int, shape (N,)
        Next node toward the root; a root is its own parent.
    leaves : ndarray of int, shape (L,)
        Node where each path starts.
    leaf_radius_mm, largest_radius_mm : float
    arterial : bool
    """

    nodes_mm: npt.NDArray[np.float64]
    parent: npt.NDArray[np.int64]
    leaves: npt.NDArray[np.int64]
    leaf_radius_mm: float
    largest_radius_mm: float
    arterial: bool = False


@dataclass(frozen=True)
class Landmark:
    """Where a vein may be taken for a microbleed: its kind, its place in the scan's frame, and the vein's diameter."""

    kind: str
    center_mm: npt.NDArray[np.float64]
    diameter_mm: float


@dataclass(frozen=True, eq=False)
class Branches:
    """The branches of one tree that one person has.

    Attributes
    ----------
    nodes_mm : ndarray, shape (N, 3)
        In the scan's frame; of nodes that the person lacks, not a number.
    parent : ndarray of int, shape (N,)
    flow : ndarray, shape (N,)
        Number of leaves behind each node; 0 where the person has no vessel.
    radius_mm : ndarray, shape (N,)
        Of the vessel from a node to its parent.
    arterial : bool
    """

    nodes_mm: npt.NDArray[np.float64]
    parent: npt.NDArray[np.int64]
    flow: npt.NDArray[np.float64]
    radius_mm: npt.NDArray[np.float64]
    arterial: bool

    def samples(self, random: np.random.Generator, step_mm: float) -> tuple[npt.NDArray, npt.NDArray]:
        """Points that fill the vessels, shape (M, 3), in the scan's frame, mm, and the volume of each, mm3."""
        edge = np.flatnonzero((self.flow > 0) & (self.parent != np.arange(len(self.parent))))
        start, end = self.nodes_mm[edge], self.nodes_mm[self.parent[edge]]
        length = np.linalg.norm(end - start, axis=1)
        area = np.pi * self.radius_mm[edge] ** 2
        per_edge = np.maximum(1, np.ceil(length * area / step_mm**3 * 2)).astype(int)
        per_edge = np.maximum(per_edge, np.ceil(length / step_mm).astype(int))
        which = np.repeat(np.arange(len(edge)), per_edge)
        direction = (end - start) / np.maximum(length, 1e-6)[:, None]
        offset = random.normal(size=(len(which), 3))
        offset -= (offset * direction[which]).sum(axis=1, keepdims=True) * direction[which]
        offset /= np.maximum(np.linalg.norm(offset, axis=1, keepdims=True), 1e-6)
        offset *= (self.radius_mm[edge][which] * np.sqrt(random.random(len(which))))[:, None]
        along = random.random(len(which))[:, None]
        return start[which] + along * (end - start)[which] + offset, (area * length / per_edge)[which]

    def landmarks(self, random: np.random.Generator) -> list[Landmark]:
        """Cross-sections, bends and junctions that look round on slices, some of each kind, well apart."""
        child = _main_child(self.parent, self.flow)
        before = after = np.arange(len(self.parent))
        for _ in range(SPAN):
            before, after = child[before], self.parent[after]
        incoming, outgoing = self.nodes_mm - self.nodes_mm[before], self.nodes_mm[after] - self.nodes_mm
        lengths = [np.maximum(np.linalg.norm(way, axis=1), 1e-6) for way in (incoming, outgoing)]
        whole = incoming + outgoing
        steep = np.abs(whole[:, 2]) / np.maximum(np.linalg.norm(whole, axis=1), 1e-6)
        cosine = (incoming * outgoing).sum(axis=1) / (lengths[0] * lengths[1])
        thick = (self.flow > 0) & (self.radius_mm >= SMALLEST_RADIUS_MM)
        long = (lengths[0] > 1.5) & (lengths[1] > 1.5)
        edge = np.flatnonzero(thick & (self.parent != np.arange(len(self.parent))))
        joined = np.bincount(self.parent[edge], minlength=len(self.parent)) > 1
        found = []
        for kind, mask in (
            ("vein cross-section", thick & long & (steep > STEEP)),
            ("vein bend", thick & long & (cosine < BENT)),
            ("vein junction", thick & joined),
        ):
            chosen: list[npt.NDArray] = []
            for node in random.permutation(np.flatnonzero(mask))[: 20 * MOST_LANDMARKS]:
                center = self.nodes_mm[node]
                if all(np.linalg.norm(center - other) > LANDMARKS_APART_MM for other in chosen):
                    chosen.append(center)
                    found.append(Landmark(kind, center, 2 * float(self.radius_mm[node])))
                if len(chosen) == MOST_LANDMARKS:
                    break
        return found


def grow_vessels(head: Head, seed: int) -> tuple[VesselTree, ...]:
    """Deep veins, superficial veins and arteries of a head; the same seed gives the same trees."""
    random = np.random.default_rng(seed)
    corner = np.maximum(np.argwhere(head.mars > 0).min(axis=0) - 14, 0)  # veins lie in and around the brain only
    far = np.argwhere(head.mars > 0).max(axis=0) + 15
    box = tuple(slice(a, b) for a, b in zip(corner, far, strict=True))
    labels, mars = head.labels[box], head.mars[box]
    tissue = mars > 0
    ventricle = np.isin(labels, heads.VENTRICLES)
    white = np.isin(labels, heads.WHITE_MATTER)
    cortex = np.isin(labels, heads.CORTEX)
    deep_gray = np.isin(labels, (*heads.THALAMUS, *heads.CAUDATE, *heads.PUTAMEN, *heads.PALLIDUM))
    sinus = labels == heads.DURAL_SINUS
    fluid = labels == heads.CSF
    infratentorial = np.isin(mars, (1, 2))
    to_ventricle = ndimage.distance_transform_edt(~ventricle)
    to_tissue = ndimage.distance_transform_edt(~tissue)

    blank = np.full(labels.shape, np.inf)
    deep_cost = blank.copy()
    deep_cost[white] = 1.0
    deep_cost[deep_gray] = 1.3
    deep_cost[cortex & (to_ventricle < 6)] = 6.0
    deep_cost[ventricle | (fluid & (to_ventricle < 8))] = 0.9
    deep_cost[(to_ventricle > 0) & (to_ventricle < 2) & (tissue | fluid)] = 0.25
    thalami = np.argwhere(np.isin(labels, heads.THALAMUS)).mean(axis=0)
    galen = _nearest(np.isfinite(deep_cost) & ~white, thalami + [0.0, -20.0, 4.0])
    wm_leaves = white & (to_ventricle > 4) & (to_ventricle < 36)
    deep = _grow(deep_cost, galen[None], [(wm_leaves, 700), (deep_gray, 60)], random, 0.21, 1.3)

    surface_cost = blank.copy()
    surface_cost[tissue] = 5.0
    surface_cost[cortex | np.isin(labels, heads.CEREBELLUM_CORTEX)] = 2.5
    surface_cost[fluid & (to_tissue < 6)] = 0.5
    surface_cost[fluid & (to_tissue < 1.5)] = 0.3
    arterial_cost = surface_cost.copy()
    surface_cost[sinus & (to_tissue < 12)] = 0.1
    roots = np.argwhere(sinus & (to_tissue < 4))[::7]
    sulci = cortex & (ndimage.distance_transform_edt(~white) < 2.0)
    cerebellum = np.isin(labels, heads.CEREBELLUM_CORTEX)
    surface = _grow(
        surface_cost, roots, [(sulci, 1800), (cerebellum, 160), (infratentorial & ~cerebellum, 40)], random, 0.27, 1.6
    )

    # The circle of Willis lies before and below the ventral diencephalon.
    basal = np.argwhere(np.isin(labels, heads.VENTRAL_DC)).mean(axis=0) + [0.0, 8.0, -8.0]
    willis = [_nearest(fluid & (to_tissue < 6), basal + [lateral, 0.0, 0.0]) for lateral in (-8.0, 8.0)]
    in_fluid = fluid & (to_tissue < 1.5)
    arteries = _grow(arterial_cost, np.unique(willis, axis=0), [(in_fluid, 350), (cortex, 150)], random, 0.2, 1.4)
    trees = (deep, surface, replace(arteries, arterial=True))
    return tuple(replace(tree, nodes_mm=tree.nodes_mm + corner) for tree in trees)


def branches(tree: VesselTree, placed: PlacedHead, random: np.random.Generator) -> Branches:
    """Give one person's vessels of a tree: another subset of the branches and another caliber for everyone."""
    keep = tree.leaves[random.random(len(tree.leaves)) < random.uniform(0.45, 1.0)]
    flow = _leaves_behind(tree.parent, keep)
    radius = random.uniform(0.75, 1.4) * tree.leaf_radius_mm * flow ** (1 / 2.7)
    used = np.flatnonzero(flow > 0)
    scan = np.full_like(tree.nodes_mm, np.nan)
    scan[used] = placed.scan_points(tree.nodes_mm[used])
    return Branches(scan, tree.parent, flow, np.minimum(radius, tree.largest_radius_mm), tree.arterial)


def splat(
    points_mm: npt.NDArray,
    volumes_mm3: npt.NDArray,
    origin_mm: npt.NDArray,
    spacing_mm: npt.NDArray,
    shape: tuple[int, int, int],
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Volume fraction (0-1) of the voxels of a grid, by trilinear splatting of sample points."""
    # By numpy on the CPU: additions in a fixed order give the same bits every time, torch's scatter does not.
    index = ((points_mm - origin_mm) / spacing_mm).T
    weight = volumes_mm3 / np.prod(spacing_mm)
    low = np.floor(index).astype(np.int64)
    part = index - low
    # Of each axis, for the lower and the upper neighbor: its share, whether it lies in the grid, and how far on it is.
    share = [(1 - x, x) for x in part]
    inside = [((x >= 0) & (x < n), (x >= -1) & (x < n - 1)) for x, n in zip(low, shape, strict=True)]
    stride = (shape[1] * shape[2], shape[2], 1)
    first = sum(x * step for x, step in zip(low, stride, strict=True))
    places, shares = [], []
    for i, j, k in np.ndindex(2, 2, 2):
        kept = inside[0][i] & inside[1][j] & inside[2][k]
        places.append((first + (i * stride[0] + j * stride[1] + k))[kept])
        shares.append((share[0][i] * share[1][j] * share[2][k] * weight)[kept])
    fraction = np.bincount(np.concatenate(places), np.concatenate(shares), minlength=int(np.prod(shape)))
    return torch.from_numpy(fraction.astype(np.float32)).view(shape).clamp_(0, 1).to(device)


def _nearest(mask: npt.NDArray[np.bool_], point: npt.NDArray) -> npt.NDArray[np.int64]:
    places = np.argwhere(mask)
    return places[np.argmin(((places - point) ** 2).sum(axis=1))]


def _grow(
    cost: npt.NDArray,
    roots: npt.NDArray,
    leaf_regions: list[tuple[npt.NDArray[np.bool_], int]],
    random: np.random.Generator,
    leaf_radius_mm: float,
    largest_radius_mm: float,
) -> VesselTree:
    """Cheapest-path tree from leaves drawn in regions (mask, count) to the roots."""
    rough = ndimage.zoom(random.normal(size=[int(np.ceil(n / 4)) + 1 for n in cost.shape]), 4, order=1)
    rough = rough[tuple(slice(n) for n in cost.shape)]
    box = ndimage.find_objects(np.isfinite(cost).astype(np.int8))[0]
    corner = np.array([part.start for part in box])
    graph = MCP_Geometric((cost * np.exp(0.5 * rough) + 0.02)[box])
    graph.find_costs([tuple(root - corner) for root in roots])
    edges: list[npt.NDArray] = []
    starts: list[int] = []
    shape = cost.shape
    for region, count in leaf_regions:
        places = np.argwhere(region & np.isfinite(cost))
        for leaf in places[random.choice(len(places), size=min(count, len(places)), replace=False)]:
            try:
                path = np.array(graph.traceback(tuple(leaf - corner)))[::-1] + corner
            except ValueError:  # a pocket that no root reaches
                continue
            if len(path) < 4:
                continue
            flat = np.ravel_multi_index(tuple(path.T), shape)
            edges.append(np.stack([flat[:-1], flat[1:]], axis=1))
            starts.append(int(flat[0]))
    joined = np.concatenate(edges)
    ids = np.unique(joined)
    child, first = np.unique(joined[:, 0], return_index=True)
    parent = np.arange(len(ids))
    parent[np.searchsorted(ids, child)] = np.searchsorted(ids, joined[first, 1])
    leaves = np.searchsorted(ids, np.array(starts))
    nodes = np.stack(np.unravel_index(ids, shape), axis=1).astype(float)
    nodes += random.uniform(-0.3, 0.3, nodes.shape)
    return VesselTree(_smooth(nodes, parent, leaves), parent, leaves, leaf_radius_mm, largest_radius_mm)


def _leaves_behind(parent: npt.NDArray, leaves: npt.NDArray) -> npt.NDArray[np.float64]:
    """Number of leaves whose path leads through each node."""
    flow = np.zeros(len(parent))
    at = leaves.copy()
    while len(at):
        np.add.at(flow, at, 1.0)
        at = parent[at[parent[at] != at]]
    return flow


def _smooth(nodes: npt.NDArray, parent: npt.NDArray, leaves: npt.NDArray, rounds: int = 12) -> npt.NDArray:
    """Take the voxel staircase out of a tree: each node moves toward its parent and its main child."""
    main_child = _main_child(parent, _leaves_behind(parent, leaves))
    for _ in range(rounds):
        nodes = 0.5 * nodes + 0.25 * nodes[parent] + 0.25 * nodes[main_child]
    return nodes


def _main_child(parent: npt.NDArray, flow: npt.NDArray) -> npt.NDArray[np.int64]:
    """Of each node, the child that most leaves lie behind; a node without children is its own."""
    main_child = np.arange(len(parent))
    order = np.argsort(flow, kind="stable")
    order = order[flow[order] > 0]
    moving = order[parent[order] != order]
    main_child[parent[moving]] = moving  # the largest is written last
    return main_child
