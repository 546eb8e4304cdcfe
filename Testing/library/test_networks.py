"""The networks: grids, switches, boxes in millimeters, prototypes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from CMBDetectorLib.networks import anchors
from CMBDetectorLib.networks.adapters import AdaptedConv3d, adapt, halve_adapters, has_adapters, merge_adapters, merged
from CMBDetectorLib.networks.backbone import CHANNELS, FEATURES
from CMBDetectorLib.networks.detector import Detector, Fusion
from CMBDetectorLib.networks.plain_unet import PlainUNet
from CMBDetectorLib.networks.prototypes import CMB, MIMIC, Prototypes
from CMBDetectorLib.networks.segmenter import Segmenter

torch.set_num_threads(1)  # for tensors this small, threads cost more than they give


@pytest.mark.parametrize("ffm", [True, False])
def test_the_detector_answers_on_a_2_mm_grid_with_and_without_ffm(ffm: bool) -> None:
    logits, boxes = Detector(ffm).eval()(torch.zeros(2, CHANNELS, 64, 32, 16))
    assert logits.shape == (2, 3, 16, 8, 8)
    assert boxes.shape == (2, 3, 4, 16, 8, 8)


def test_every_cell_starts_at_a_probability_of_one_percent() -> None:
    network = Detector().eval()
    logits, _ = network.head(torch.zeros(1, FEATURES, 2, 2, 2))
    assert torch.sigmoid(logits).detach().numpy() == pytest.approx(0.01, rel=1e-4)


def test_the_baseline_reads_the_third_level_alone() -> None:
    network = Detector(ffm=False)
    assert network.fusion is None
    assert not any("fusion" in name for name in network.state_dict())


def test_the_plain_unet_answers_on_a_1_mm_grid_and_is_no_larger_than_the_detector() -> None:
    network = PlainUNet().eval()
    assert network(torch.zeros(2, CHANNELS, 64, 32, 16)).shape == (2, 32, 16, 16)
    sizes = [sum(p.numel() for p in n.parameters()) for n in (network, Detector(), Detector(ffm=False))]
    assert 0.85 < sizes[0] / sizes[1] <= sizes[0] / sizes[2] < 1.0, sizes


def test_feature_fusion_is_the_sum_of_three_levels_on_the_finest_grid() -> None:
    torch.manual_seed(0)
    fusion = Fusion((64, 64, FEATURES)).eval()
    coarse, middle, fine = torch.randn(1, 64, 2, 2, 2), torch.randn(1, 64, 4, 4, 4), torch.randn(1, FEATURES, 8, 8, 8)
    with torch.no_grad():
        together = fusion(coarse, middle, fine)
        nothing = fusion(0 * coarse, 0 * middle, 0 * fine)
        apart = (
            fusion(coarse, 0 * middle, 0 * fine)
            + fusion(0 * coarse, middle, 0 * fine)
            + fusion(0 * coarse, 0 * middle, fine)
        )
    assert together.shape == (1, FEATURES, 8, 8, 8)
    assert torch.allclose(together, apart - 2 * nothing, atol=1e-4)


def test_a_cell_looks_at_the_place_that_anchors_gives_it() -> None:
    """What one cell sees through the fine levels, made symmetric by equal weights, is centered on the cell."""
    network = Detector(ffm=False).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.constant_(module.weight, 0.01)
        if isinstance(module, nn.BatchNorm3d):
            nn.init.ones_(module.weight)  # of a new residual unit it is 0
    for parameter in network.d3.up.parameters():
        nn.init.zeros_(parameter)  # coarser levels see symmetrically around their own, coarser cells
    network.at_2_mm[0] = nn.AvgPool3d(2)  # a maximum would pick one side

    image = torch.ones(1, CHANNELS, 128, 128, 64, requires_grad=True)  # all that the cell sees
    cell = (16, 15, 17)
    logits, _ = network(image)
    logits[(0, 0, *cell)].backward()
    assert image.grad is not None
    weight = image.grad[0, 0].double().numpy()
    voxels = np.stack(np.meshgrid(*(np.arange(n) for n in weight.shape), indexing="ij"), axis=-1)
    seen_mm = (voxels * weight[..., None]).sum(axis=(0, 1, 2)) / weight.sum() * anchors.SPACING_MM
    expected_mm = anchors.cell_centers_mm((32, 32, 32))[cell]
    assert np.allclose(seen_mm, expected_mm, atol=1e-3)


def test_decoding_inverts_encoding() -> None:
    rng = np.random.default_rng(0)
    shape = (5, 6, 7)
    cells_mm = anchors.cell_centers_mm(shape)
    logits, boxes = torch.full((3, *shape), -9.0), torch.zeros(3, 4, *shape)
    truth = []
    for anchor in range(3):
        cell = tuple(int(n) for n in rng.integers(shape))
        center_mm, diameter_mm = cells_mm[cell] + rng.uniform(-1, 1, 3), float(rng.uniform(2, 10))
        logits[anchor][cell] = 2.0
        code = anchors.encode(center_mm, diameter_mm, cells_mm[cell], anchor)
        boxes[anchor].movedim(0, -1)[cell] = torch.from_numpy(code).float()
        truth.append((*center_mm, diameter_mm))
    probability, found_mm, found_diameter_mm = anchors.decode(logits[None], boxes[None], 0.5)
    assert probability == pytest.approx(1 / (1 + np.exp(-2.0)), abs=1e-6)
    assert np.allclose(np.column_stack((found_mm, found_diameter_mm)), truth, atol=1e-5)


def test_decoding_drops_what_is_below_the_floor() -> None:
    logits = torch.tensor([-3.0, 0.0, 3.0]).reshape(3, 1, 1, 1)
    probability, center_mm, diameter_mm = anchors.decode(logits, torch.zeros(3, 4, 1, 1, 1), 0.5)
    assert sorted(diameter_mm) == [5.0, 10.0]
    assert probability.min() == 0.5
    assert np.allclose(center_mm, (0.75, 0.75, 0.5))


@pytest.mark.parametrize(("diameter_mm", "anchor"), [(1.5, 0), (3.4, 0), (3.6, 1), (7.0, 1), (7.2, 2), (20.0, 2)])
def test_the_best_anchor_is_the_closest_in_ratio(diameter_mm: float, anchor: int) -> None:
    assert anchors.best_anchor(diameter_mm) == anchor


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_detector_computes_the_same_at_any_size() -> None:
    network = Detector().eval()
    scripted = torch.jit.script(network)
    for shape in ((32, 64, 16), (64, 32, 48)):
        x = torch.randn(1, CHANNELS, *shape)
        with torch.no_grad():
            for eager, found in zip(network(x), scripted(x), strict=True):
                assert torch.allclose(eager, found, atol=1e-5)


def test_the_segmenter_answers_for_every_voxel() -> None:
    assert Segmenter().eval()(torch.zeros(1, 4, 16, 32, 48)).shape == (1, 15, 16, 32, 48)


@pytest.mark.parametrize("coordinates", [True, False])
def test_the_switch_decides_whether_coordinates_are_read(coordinates: bool) -> None:
    torch.manual_seed(0)
    network = Segmenter(coordinates).eval()
    x = torch.randn(1, 4, 16, 16, 16)
    moved = x.clone()
    moved[:, 1:] += 0.5
    with torch.no_grad():
        assert torch.allclose(network(x), network(moved)) is not coordinates


def test_prototype_loss_equals_its_closed_form() -> None:
    prototypes = Prototypes(3, temperature=2.0, weight=0.1)
    with torch.no_grad():
        prototypes.means.copy_(torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]]))
    loss = prototypes(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([CMB]))
    to_cmb, to_mimic = 1 / 3, 4 / 3  # squared distances over the three dimensions
    dce = -np.log(np.exp(-to_cmb / 2) / (np.exp(-to_cmb / 2) + np.exp(-to_mimic / 2)))
    assert loss.item() == pytest.approx(dce + 0.1 * 0.5 * to_cmb, rel=1e-5)


def test_prototypes_learn_to_tell_two_kinds_apart() -> None:
    torch.manual_seed(0)
    prototypes = Prototypes(8)
    features = torch.cat((torch.rand(20, 8), torch.rand(20, 8) + 0.7))
    kind = torch.tensor([CMB] * 20 + [MIMIC] * 20)
    optimizer = torch.optim.SGD(prototypes.parameters(), lr=2.0)
    for _ in range(30):
        optimizer.zero_grad()
        prototypes(features, kind).backward()
        optimizer.step()
    assert (prototypes.distances(features).argmin(dim=1) == kind).float().mean() > 0.95


def test_prototypes_without_samples_cost_nothing() -> None:
    loss = Prototypes(4)(torch.empty(0, 4), torch.empty(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0


# --- adapters


def with_adapters(kept: tuple[str, ...] = ()) -> Detector:
    torch.manual_seed(0)
    network = Detector().eval()
    adapt(network, 2, kept)
    return network


def test_a_new_adapter_changes_nothing() -> None:
    network, x = with_adapters(), torch.randn(1, CHANNELS, 64, 32, 16)
    torch.manual_seed(0)
    plain = Detector().eval()
    for one, other in zip(network(x), plain(x), strict=True):
        assert torch.equal(one, other)


def test_what_an_adapter_says_is_added_to_the_kernel() -> None:
    plain = nn.Conv3d(3, 4, 3, padding=1)
    layer = AdaptedConv3d(plain, 2)
    layer.up.data = torch.randn(4, 2)
    x = torch.randn(2, 3, 6, 6, 6)
    change = torch.einsum("or,rn->on", layer.up, layer.down).reshape(4, 3, 3, 3, 3)
    expected = nn.functional.conv3d(x, plain.weight + change, plain.bias, padding=1)
    assert torch.allclose(layer(x), expected, atol=1e-5)
    assert not torch.allclose(layer(x), plain(x), atol=0.1)


def test_parts_that_are_kept_get_no_adapters() -> None:
    network = with_adapters(kept=("at_2_mm", "d1"))
    assert not has_adapters(network.at_2_mm) and not has_adapters(network.d1)
    assert has_adapters(network.at_1_mm) and has_adapters(network.d2) and has_adapters(network.answer)


def test_a_network_with_adapters_merged_into_its_kernels_answers_the_same() -> None:
    network, x = with_adapters(), torch.randn(1, CHANNELS, 64, 32, 16)
    for module in network.modules():
        if isinstance(module, AdaptedConv3d):
            nn.init.normal_(module.up, std=0.1)
    halve_adapters(network)
    adapted = network(x)
    before = with_adapters()(x)
    plain = Detector().eval()
    plain.load_state_dict(merged(network.state_dict()))
    merge_adapters(network)
    merge_adapters(network)  # once more changes nothing
    for answers in zip(adapted, plain(x), network(x), before, strict=True):
        assert torch.allclose(answers[0], answers[1], atol=1e-5)
        assert torch.allclose(answers[0], answers[2], atol=1e-5)
        assert not torch.allclose(answers[0], answers[3], atol=1e-3)
