"""Exact line integrals of 3D Gaussians, and what affine splatting misses of them."""

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gaussian_oracle import leaves, line_integrals, normalised
from operators import relative

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.representations import GaussianCloud, render_gaussians
from diffnr_lightning.representations.gaussians.line_kernels import trace_gaussians
from diffnr_lightning.representations.gaussians.lines import affine_mass_loss
from diffnr_lightning.representations.gaussians.poses import arrays_of, pose_rows, rotation_matrices
from diffnr_lightning.representations.gaussians.shape import kept_mass
from diffnr_lightning.representations.gaussians.statistics import ScreenStatistics

BACKENDS = ["numba", "reference"]


def near_scan(**changes):
    """A source that almost touches the box."""
    options = {
        "angles_rad": uniform_angles(2, 360, 17),
        "source_to_axis_mm": 45.0,
        "source_to_detector_mm": 90.0,
        "detector_shape": (25, 30),
        "pixel_mm": (4.0, 3.5),
        "axis_mm": (3.0, -2.0),
        "detector_offset_mm": (3.0, -9.0),
    }
    return ScanGeometry.cone(**{**options, **changes})


def closed_form(tensors, scan, cut):
    """Sum of the Gaussians' line integrals (V, H, W), of those alone that pass within the cut."""
    integrals, distance2 = line_integrals(tensors, scan)
    return torch.where(distance2 <= cut * cut, integrals, 0.0).sum(0) / kept_mass(cut, 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_is_the_closed_form(gaussians, backend):
    scan, some = near_scan(), gaussians(30)
    image = render_gaussians(*some, scan, cut=4.0, backend=backend, integral="exact")
    expected = closed_form(some, scan, 4.0)
    # At the rim, exp(-8) of the peak, rounding decides whether a pixel lies within the cut.
    assert relative(image, expected) < 2e-5
    affine = render_gaussians(*some, scan, cut=4.0, backend=backend)
    assert relative(affine, expected) > 0.01


def test_it_integrates_the_density_along_the_ray():
    """A sum along the ray of one Gaussian, which knows no formula of the integral."""
    scan = near_scan(detector_shape=(9, 11), pixel_mm=8.0)
    generator = torch.Generator().manual_seed(3)
    one = (
        torch.tensor([[5.0, -4.0, 3.0]], dtype=torch.float64),
        torch.tensor([[4.0, 7.0, 5.0]], dtype=torch.float64),
        F.normalize(torch.randn(1, 4, generator=generator, dtype=torch.float64), dim=1),
        torch.tensor([0.7], dtype=torch.float64),
    )
    whitening = (rotation_matrices(one[2])[0] / one[1]).T
    origins, directions = scan.rays(dtype=torch.float64)
    t = torch.linspace(-60, 160, 2001, dtype=torch.float64)
    points = origins[..., None, :] + t[:, None] * directions[..., None, :]
    distance2 = ((points - one[0]) @ whitening.T).square().sum(-1)
    expected = 0.7 * torch.exp(-0.5 * distance2).sum(-1) * float(t[1] - t[0])
    image = render_gaussians(*one, scan, cut=4.0, integral="exact") * kept_mass(4.0, 2)
    assert float((image - expected).abs().max()) < 4e-4 * float(expected.max())


def test_small_gaussians_far_from_the_source_meet_few_rows(gaussians):
    """Whose conics have coefficients so large that their squares are beyond float32."""
    distances = {"source_to_axis_mm": 1000.0, "source_to_detector_mm": 1500.0}
    scan, some = near_scan(**distances)[0], gaussians(40, smallest=0.03, largest=0.1)
    poses, across = pose_rows(scan)[0], np.stack([scan.u_mm[0], scan.v_mm[0]])
    first, last = np.empty((2, 40), np.int32)
    trace_gaussians(
        *arrays_of(*(tensor.float() for tensor in some[:3])),
        poses.astype(np.float32),
        across.astype(np.float32),
        np.float32(12.25),
        scan.detector_shape,
        np.empty((40, 17), np.float32),
        first,
        last,
    )
    assert (last - first).max() <= 1


def test_kernels_render_like_the_reference(gaussians):
    scan = near_scan()
    fast, slow = leaves(gaussians(), torch.float32), leaves(gaussians(), torch.float64)
    weights = torch.randn(2, 25, 30, generator=torch.Generator().manual_seed(1))
    pulls = [ScreenStatistics(60), ScreenStatistics(60)]
    for tensors, backend, pull in zip((fast, slow), BACKENDS, pulls, strict=True):
        image = render_gaussians(
            *normalised(tensors), scan, backend=backend, statistics=pull, integral="exact"
        )
        (weights * image).sum().backward()
    for ours, oracle in zip(fast, slow, strict=True):
        assert oracle.grad.norm() > 0
        assert relative(ours.grad, oracle.grad) < 1e-4
    ours, oracle = (pull.gradient for pull in pulls)
    torch.testing.assert_close(ours, oracle, rtol=1e-3, atol=1e-4 * float(oracle.max()))
    assert (pulls[0].visible == pulls[1].visible).all()


def test_the_pull_is_that_of_affine_splatting_far_from_the_source(gaussians):
    scan = near_scan(source_to_axis_mm=4e3, source_to_detector_mm=6e3, pixel_mm=(3.0, 3.0))
    pulls = []
    for integral in ("affine", "exact"):
        some = [t.requires_grad_() for t in gaussians(20)]
        pull = ScreenStatistics(20)
        image = render_gaussians(*some, scan, statistics=pull, integral=integral)
        image.square().mean().backward()
        pulls.append(pull.gradient)
    assert relative(pulls[1], pulls[0]) < 0.02


def test_gradients_of_the_reference(gaussians):
    scan = near_scan(detector_shape=(5, 6), pixel_mm=(18.0, 16.0))
    some = leaves(gaussians(3, spread=0.2, dtype=torch.float64), torch.float64)
    assert torch.autograd.gradcheck(
        lambda *t: render_gaussians(*normalised(t), scan, integral="exact"), some
    )


def test_parallel_beams_make_no_difference(gaussians, parallel_scan):
    some = gaussians(20)
    exact, affine = (
        render_gaussians(*some, parallel_scan, integral=integral)
        for integral in ("exact", "affine")
    )
    assert torch.equal(exact, affine)


def test_a_gaussian_that_reaches_to_the_source(gaussians):
    """Its footprint is no ellipse: the whole detector may see it."""
    scan = near_scan()
    some = [t[:1].clone() for t in gaussians(1)]
    some[0][:] = torch.tensor([3.0, -2.0, 0.0])
    some[1][:] = 25.0
    image = render_gaussians(*some, scan, backend="numba", integral="exact")
    assert relative(image, closed_form(some, scan, 3.5)) < 1e-4


@pytest.mark.parametrize("deviation", [1.5, 3.0])
def test_the_estimate_is_what_splatting_loses(deviation):
    scan = near_scan(
        source_to_axis_mm=110.0,
        source_to_detector_mm=220.0,
        detector_shape=(300, 300),
        pixel_mm=2.2,
        detector_offset_mm=(0.0, 0.0),
    )
    generator = torch.Generator().manual_seed(0)
    positions = 80 * (torch.rand(40, 3, generator=generator) - 0.5) + torch.tensor([3.0, -2.0, 0.0])
    scales = torch.full((40, 3), deviation)
    rotations = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(40, 1)
    some = (positions, scales, rotations, torch.ones(40))
    affine, exact = (
        float(render_gaussians(*some, scan, cut=4.0, integral=integral).double().sum())
        for integral in ("affine", "exact")
    )
    lost = affine_mass_loss(positions, scales, some[3], scan)
    assert lost == pytest.approx(1 - affine / exact, rel=0.15)


def test_gaussians_behind_the_source_lose_no_mass(gaussians):
    """Splatting leaves them out."""
    positions, scales, _, densities = gaussians(20, smallest=0.2, largest=0.4)
    one = near_scan()[:1]
    behind = torch.from_numpy(one.source_mm - 20.0 * one.normal).to(positions)
    expected = affine_mass_loss(positions, scales, densities, one)
    assert 0.0 < expected < 0.1
    more = (torch.cat([tensor, tensor[:1]]) for tensor in (scales, densities))
    assert affine_mass_loss(torch.cat([positions, behind]), *more, one) == expected
    assert affine_mass_loss(behind, scales[:1], densities[:1], one) == 0.0


def test_a_cloud_near_to_the_source_warns(caplog):
    grid = VolumeGrid((16, 16, 16), 6.25)
    volume = torch.rand(grid.shape, generator=torch.Generator().manual_seed(0))
    for distance, integral, expected in (
        (110.0, "affine", 1),
        (110.0, "exact", 0),
        (1000.0, "affine", 0),
    ):
        scan = near_scan(
            source_to_axis_mm=distance, source_to_detector_mm=2 * distance, pixel_mm=8.0
        )
        cloud = GaussianCloud(grid, num_gaussians=500, calibrate=False, integral=integral)
        with caplog.at_level(logging.WARNING, logger="diffnr"):
            caplog.clear()
            cloud.initialise(volume, torch.zeros(2, 25, 30), scan, seed=0)
        assert len(caplog.records) == expected
        assert all("affine splatting loses" in r.getMessage() for r in caplog.records)
        assert cloud.render(scan).isfinite().all()


def test_another_integral_is_refused(gaussians):
    with pytest.raises(ValueError, match="integral is 'linear'; 'affine' or 'exact' is expected"):
        render_gaussians(*gaussians(2), near_scan(), integral="linear")
    with pytest.raises(ValueError, match="integral is 'linear'"):
        GaussianCloud(VolumeGrid((4, 4, 4), 1.0), integral="linear")
