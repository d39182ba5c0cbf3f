import numpy as np
import pytest
import torch

from diffnr_lightning.geometry import ScanGeometry
from diffnr_lightning.representations import render_gaussians
from diffnr_lightning.representations.gaussians.statistics import ScreenStatistics


@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_screen_statistics_are_the_pull_at_the_projected_centres(gaussians, backend):
    """Moving a parallel-beam Gaussian along u by a pixel moves its centre by a column."""
    scan = ScanGeometry.parallel(
        angles_rad=[0.4, 1.3], detector_shape=(25, 31), pixel_mm=(2.3, 2.0), axis_mm=(3.0, -2.0)
    )
    some = [t.requires_grad_() for t in gaussians(20)]
    weights = torch.randn(2, 25, 31, generator=torch.Generator().manual_seed(1))
    expected = torch.zeros(20)
    for k in range(2):
        image = render_gaussians(*some, scan[k])
        (slope,) = torch.autograd.grad((weights[k] * image[0]).sum(), some[0])
        along = torch.tensor(np.stack([scan.u_mm[k], scan.v_mm[k]]), dtype=torch.float32)
        per_pixel = slope @ along.T  # (N, 2) columns, rows
        expected += (per_pixel * torch.tensor([15.5, 12.5])).norm(dim=1)
    statistics = ScreenStatistics(20)
    image = render_gaussians(*some, scan, backend=backend, statistics=statistics)
    # A loss is a mean over the views.
    (0.5 * weights * image).sum().backward()
    torch.testing.assert_close(statistics.gradient, expected, rtol=1e-4, atol=1e-6)
    assert (statistics.visible == 2).sum() > 10


@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_the_pull_does_not_depend_on_how_many_views_are_in_a_batch(gaussians, backend):
    scan = ScanGeometry.parallel(
        angles_rad=[0.4, 1.3, 2.2, 2.9], detector_shape=(25, 31), pixel_mm=(2.3, 2.0)
    )
    some = [t.requires_grad_() for t in gaussians(20)]
    pulls = []
    for size in (1, 2, 4):
        statistics = ScreenStatistics(20)
        for first in range(0, 4, size):
            views = scan[list(range(first, first + size))]
            image = render_gaussians(*some, views, backend=backend, statistics=statistics)
            image.square().mean().backward()
        pulls.append(statistics.pull())
    assert float(pulls[0].max()) > 0
    for pull in pulls[1:]:
        torch.testing.assert_close(pull, pulls[0], rtol=1e-4, atol=1e-7)
