"""The weight of rays and the misfit of counts, against their laws."""

import math

import pytest
import torch

from diffnr_lightning.photons import PhotonCounts, ray_factors


def counted(line_integrals, photons=1e4, electronic=10.0, scale=1.0, seed=0):
    """Counts behind line integrals (V, H, W) in units of 1 / scale."""
    generator = torch.Generator().manual_seed(seed)
    expected = photons * torch.exp(-scale * line_integrals.double())
    counts = torch.poisson(expected, generator=generator)
    counts += electronic * torch.randn(counts.shape, generator=generator, dtype=torch.float64)
    return PhotonCounts(counts.float(), torch.full((1, 1, 1), photons), electronic, scale)


@pytest.mark.parametrize("line_integral", [0.5, 2.0, 4.0])
def test_weights_are_the_inverse_variance_of_the_log_projections(line_integral):
    scale = 0.04
    exact = torch.full((3, 200, 200), line_integral / scale)
    photons = counted(exact, scale=scale)
    measured = -torch.log(photons.counts / photons.air) / scale
    assert photons.weights().mean() == pytest.approx(1 / float(measured.var()), rel=0.03)


@pytest.mark.parametrize("line_integral", [1.0, 5.0, 8.0])
def test_chi_square_of_the_truth_is_one_even_behind_thick_objects(line_integral):
    exact = torch.full((4, 256, 256), line_integral)
    found = counted(exact).chi_square(exact)
    assert found.shape == (4,)
    assert torch.allclose(found, torch.ones(4).double(), atol=5 * math.sqrt(2 / 256**2))


def test_chi_square_of_another_object_is_larger():
    exact = torch.full((2, 64, 64), 2.0)
    assert (counted(exact).chi_square(exact + 0.1) > 5).all()


def test_dead_pixels_have_no_part_in_chi_square():
    """As measured scans have them: their air and their counts are 0."""
    exact = torch.full((2, 128, 128), 2.0)
    photons = counted(exact)
    seen = torch.ones(1, 128, 128)
    seen[:, :, ::2] = 0
    dead = photons._replace(counts=photons.counts * seen, air=photons.air * seen)
    assert torch.allclose(dead.chi_square(exact), torch.ones(2).double(), atol=0.1)
    none = photons._replace(counts=0 * photons.counts, air=torch.zeros(1, 1, 1))
    assert none.chi_square(exact).isnan().all()


def test_rays_beside_dead_pixels_weigh_as_others_do():
    """A dead pixel counts nothing of what its neighbours expect; a dead column has two of them beside every pixel."""
    exact = torch.full((2, 60, 60), 2.0)
    photons = counted(exact, electronic=0.0)
    seen = torch.ones(1, 60, 60)
    seen[:, 20, 20] = 0
    seen[:, :, 40] = 0
    seen[:, 50:53, 50:53] = 0
    dead = photons._replace(counts=photons.counts * seen, air=photons.air * seen)
    expected = 1e4 * math.exp(-2.0)
    found = dead.weights()
    assert not found[(seen == 0).expand_as(found)].any()
    # Means of at least 3 of 9 counts scatter by 1.6 % here.
    living = found[(seen > 0).expand_as(found)]
    torch.testing.assert_close(living, torch.full_like(living, expected), rtol=0.1, atol=0.0)
    beside = torch.cat([found[:, 19:22, 21], found[:, :, 39], found[:, :, 41]], dim=1)
    assert float(beside.mean()) == pytest.approx(expected, rel=0.01)
    # Where nothing is dead, weights are what they were to the bit.
    whole = photons._replace(air=photons.air.expand(2, 60, 60).clone())
    pooled = torch.nn.functional.avg_pool2d(
        torch.nn.functional.pad(photons.counts[:, None], (1,) * 4, mode="replicate"), 3, 1
    )[:, 0]
    assert torch.equal(whole.weights(), pooled.square() / pooled)
    assert torch.equal(photons.weights(), whole.weights())


@pytest.mark.parametrize("at_once", [1, 2 * 7 * 9 + 3])
def test_weights_are_the_same_in_pieces(at_once, monkeypatch):
    whole = counted(torch.rand(5, 7, 9))
    expected = whole.weights()
    monkeypatch.setattr("diffnr_lightning.photons._AT_ONCE", at_once)
    assert torch.equal(whole.weights(), expected)


def test_rays_without_light_weigh_nothing():
    photons = PhotonCounts(torch.zeros(1, 4, 4), torch.full((1, 1, 1), 1e4))
    assert not photons.weights().any()


def test_counts_follow_projections_to_another_unit():
    exact = torch.full((2, 32, 32), 50.0)
    photons = counted(exact, scale=0.04)
    halved = photons.in_units_of(2.0)
    assert torch.allclose(halved.chi_square(exact / 2), photons.chi_square(exact))
    assert torch.allclose(halved.weights(), 4 * photons.weights())


def test_views_keep_their_own_air():
    photons = PhotonCounts(torch.ones(3, 2, 2), torch.arange(3.0)[:, None, None])
    assert photons.of_views(torch.tensor([2])).air.item() == 2
    assert PhotonCounts(torch.ones(3, 2, 2), torch.ones(1, 1, 1)).of_views(
        slice(1, 3)
    ).air.shape == (1, 1, 1)


def test_assumed_counts_refuse_what_no_beam_has():
    with pytest.raises(ValueError, match="photons is 0; a positive number"):
        PhotonCounts.assumed(torch.ones(2, 4, 4), 0)
    assert PhotonCounts.assumed(torch.zeros(2, 4, 4), 1e3).weights().mean() == pytest.approx(1e3)


def test_ray_factors_are_one_on_average_over_the_object_whatever_the_unit_of_the_weights():
    projections = torch.linspace(0, 6, 300).reshape(1, 15, 20)
    weights = torch.exp(-projections)
    factors = ray_factors(weights, projections)
    assert float((factors * projections).sum()) == pytest.approx(float(projections.sum()), rel=1e-5)
    assert (factors.flatten().diff() < 0).all()
    torch.testing.assert_close(ray_factors(700 * weights, projections), factors)
    torch.testing.assert_close(ray_factors(0 * weights + 3, projections), torch.ones(1, 15, 20))


def test_ray_factors_of_projections_of_nothing_are_one_on_average():
    weights = torch.linspace(1, 2, 16).reshape(1, 4, 4)
    factors = ray_factors(weights, torch.zeros(1, 4, 4))
    assert float(factors.mean()) == pytest.approx(1)


def test_rays_without_light_do_not_count_in_ray_factors():
    weights = torch.ones(1, 4, 4)
    weights[0, 1, 2] = 0
    factors = ray_factors(weights, torch.ones(1, 4, 4))
    assert factors[0, 1, 2] == 0 and factors.isfinite().all()


def test_ray_factors_behind_an_object_that_no_light_passes_are_one_on_average():
    projections = torch.zeros(1, 4, 4)
    projections[0, 1:3] = 9.0
    factors = ray_factors((projections == 0).float(), projections)
    assert float(factors.mean()) == pytest.approx(1) and (factors[0, 1:3] == 0).all()
