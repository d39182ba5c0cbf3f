"""What the CPU computes, a CUDA device computes as well: values and gradients, to rounding."""

import pytest
import torch

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.losses import ssim_2d, ssim_3d
from diffnr_lightning.priors import Conditioning, load_default
from diffnr_lightning.projectors import backproject, project
from diffnr_lightning.representations import GaussianCloud
from diffnr_lightning.solvers import fbp, fdk

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
GRID = VolumeGrid((14, 18, 16), (1.9, 1.5, 1.7), (3.0, -2.0, 1.0))
DETECTOR = {"detector_shape": (20, 24), "pixel_mm": (2.3, 2.0)}
SCANS = {
    "cone": ScanGeometry.cone(
        angles_rad=uniform_angles(12),
        source_to_axis_mm=90.0,
        source_to_detector_mm=120.0,
        **DETECTOR,
    ),
    "parallel": ScanGeometry.parallel(angles_rad=uniform_angles(12, 180), **DETECTOR),
}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def assert_same(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    """The largest difference is a small part of the largest value; the device is the other one."""
    assert actual.device.type == DEVICE
    difference = (actual.detach().cpu() - expected.detach()).abs().max()
    assert difference <= tolerance * expected.abs().max()


@pytest.mark.parametrize("beam", SCANS)
def test_projector_pair(beam):
    scan = SCANS[beam]
    volume, weights = drawn(*GRID.shape), drawn(12, 20, 24, seed=1)
    gradients = []
    for device in ("cpu", DEVICE):
        leaf = volume.to(device, copy=True).requires_grad_()
        projections = project(leaf, GRID, scan)
        (projections * weights.to(device)).sum().backward()
        gradients.append((projections, leaf.grad))
    assert_same(gradients[1][0], gradients[0][0])
    assert_same(gradients[1][1], gradients[0][1])
    # The gradient is the adjoint, on either device.
    assert_same(backproject(weights.to(DEVICE), GRID, scan), gradients[0][1])


@pytest.mark.parametrize("beam", SCANS)
def test_gaussians(beam):
    found = []
    for device in ("cpu", DEVICE):
        cloud = GaussianCloud(GRID, num_gaussians=40)
        cloud.place(
            torch.tensor(GRID.centre_mm) + 16 * (drawn(40, 3) - 0.5),
            1.5 + drawn(40, 3, seed=1),
            0.1 + drawn(40, seed=2),
        )
        cloud.to(device)
        rendered, volume = cloud.render(SCANS[beam]), cloud.query(GRID)
        (rendered.square().mean() + volume.square().mean()).backward()
        gradients = [parameter.grad for parameter in cloud.parameters()]
        found.append([rendered, volume, *gradients])
    for actual, expected in zip(found[1], found[0], strict=True):
        assert_same(actual, expected, 1e-3)


def test_structural_similarity():
    image, volume = drawn(3, 21, 33), drawn(12, 15, 13)
    found = []
    for device in ("cpu", DEVICE):
        leaves = [t.to(device, copy=True).requires_grad_() for t in (image, volume)]
        flat = ssim_2d(leaves[0], drawn(3, 21, 33, seed=1).to(device))
        solid = ssim_3d(leaves[1], drawn(12, 15, 13, seed=1).to(device))
        (flat.sum() + solid).backward()
        found.append([flat, solid, leaves[0].grad, leaves[1].grad])
    for actual, expected in zip(found[1], found[0], strict=True):
        assert_same(actual, expected)


def test_compact_prior():
    prior = load_default()
    slices = drawn(2, 2 * prior.context + 1, 48, 48)
    told = Conditioning(
        biplanar=drawn(1, 2, 32, 32, seed=1),
        plane=torch.tensor([0, 2]),
        position=torch.tensor([-0.5, 0.25]),
        views=torch.tensor([24.0]),
    )
    expected = prior.repair(slices, told)
    actual = prior.to(DEVICE).repair(slices.to(DEVICE), told.to(DEVICE))
    # Convolutions may run in TF32 there.
    assert_same(actual, expected, 1e-2)


@pytest.mark.parametrize(("beam", "method"), [("cone", fdk), ("parallel", fbp)])
def test_analytic_reconstruction(beam, method):
    projections = project(drawn(*GRID.shape), GRID, SCANS[beam])
    expected = method(projections, GRID, SCANS[beam])
    assert_same(method(projections.to(DEVICE), GRID, SCANS[beam]), expected)
