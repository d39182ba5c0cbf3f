from __future__ import annotations

import math

import pytest
import torch

from diffnr_lightning.planes import PLANE_NAMES
from diffnr_lightning.priors import biplanar_conditioning, biplanar_pair
from diffnr_lightning.priors.conditioning import prompt_of


def orbit(views: int) -> torch.Tensor:
    return torch.arange(views) * 2 * math.pi / views


def vectors(angles: torch.Tensor) -> torch.Tensor:
    return torch.stack((-angles.cos(), -angles.sin(), torch.zeros_like(angles)), dim=1)


@pytest.mark.parametrize(("views", "pair"), [(36, (0, 9)), (24, (0, 6)), (12, (0, 3))])
@pytest.mark.parametrize("kind", ["angles", "vectors", "float32 vectors"])
def test_pair_of_a_uniform_orbit(views, pair, kind):
    angles = orbit(views).double()
    directions = {
        "angles": angles,
        "vectors": 3.7 * vectors(angles),
        "float32 vectors": vectors(angles).float(),
    }
    assert biplanar_pair(directions[kind]) == pair


def test_pair_is_the_nearest_to_perpendicular_of_uneven_views():
    assert biplanar_pair(torch.deg2rad(torch.tensor([0.0, 20.0, 75.0, 107.0, 150.0]))) == (1, 3)


def test_pair_of_random_views_is_the_best_there_is():
    angles = 2 * math.pi * torch.rand(15, generator=torch.Generator().manual_seed(3)).double()
    pair = biplanar_pair(angles)
    assert biplanar_pair(7 * vectors(angles)) == pair
    cosines = (angles[:, None] - angles).cos().abs() + torch.eye(15)
    assert cosines[pair].item() == pytest.approx(cosines.min().item(), abs=1e-6)


def test_pair_of_a_short_arc_is_its_ends():
    assert biplanar_pair(torch.deg2rad(torch.tensor([0.0, 20.0, 60.0, 40.0]))) == (0, 2)


def test_opposite_views_are_parallel():
    angles = torch.deg2rad(torch.tensor([0.0, 180.0, 300.0]))
    # 0 and 180 see the same lines; 0 (or 180) and 300 are 60 degrees apart.
    assert biplanar_pair(angles) == (0, 2)
    assert biplanar_pair(vectors(angles)) == (0, 2)
    assert biplanar_pair(torch.deg2rad(torch.tensor([0.0, 180.0, 270.0]))) == (0, 2)


def test_pair_of_tilted_directions():
    directions = torch.tensor([[1.0, 0, 0], [0.8, 0, 0.6], [0, 0, 1.0]])
    assert biplanar_pair(directions) == (0, 2)


@pytest.mark.parametrize("shape", [(1,), (1, 3), (4, 2), (2, 2, 3), ()])
def test_directions_that_are_none_are_refused(shape):
    with pytest.raises(ValueError, match=r"directions has shape .*at least two views"):
        biplanar_pair(torch.zeros(shape))


def test_projections_are_resized_and_normalised_together():
    projections = torch.zeros(12, 20, 30)
    projections[0], projections[3], projections[5] = 40.0, 10.0, 1000.0
    told = biplanar_conditioning(projections, orbit(12), size=8)
    assert told.biplanar.shape == (1, 2, 8, 8)
    torch.testing.assert_close(told.biplanar[0, 0], torch.ones(8, 8))
    torch.testing.assert_close(told.biplanar[0, 1], torch.full((8, 8), 0.25))
    assert told.views.tolist() == [12.0]


def test_normalised_projections_do_not_depend_on_the_unit():
    projections = torch.rand(8, 16, 16) - 0.1
    millimetres = biplanar_conditioning(projections, orbit(8))
    metres = biplanar_conditioning(projections * 1e-3, orbit(8))
    torch.testing.assert_close(millimetres.biplanar, metres.biplanar)
    assert millimetres.biplanar.min() >= 0
    assert millimetres.biplanar.max() == 1


def test_empty_projections_stay_zero():
    assert not biplanar_conditioning(torch.zeros(4, 8, 8), orbit(4)).biplanar.any()


def test_projections_without_directions_are_refused():
    with pytest.raises(ValueError, match="one direction for each view"):
        biplanar_conditioning(torch.zeros(4, 8, 8), orbit(5))
    with pytest.raises(ValueError, match="one direction for each view"):
        biplanar_conditioning(torch.zeros(4, 8), orbit(4))


def test_conditioning_is_placed_on_slices():
    told = biplanar_conditioning(torch.rand(4, 8, 8), orbit(4))
    positions = torch.tensor([-1.0, 0.5])
    for axis, plane in enumerate(PLANE_NAMES):
        placed = told.for_slices(plane, positions)
        assert placed.plane.tolist() == [axis]
        assert placed.plane.dtype == torch.int64
        assert placed.position is positions
        assert placed.biplanar is told.biplanar
    with pytest.raises(ValueError, match="plane is 'oblique'; expected one of axial"):
        told.for_slices("oblique", positions)


def test_conditioning_travels_whole():
    moved = biplanar_conditioning(torch.rand(4, 8, 8), orbit(4)).to("meta")
    assert {field.device.type for field in moved} == {"meta"}


@pytest.mark.parametrize("organ", ["chest", "tooth"])
def test_prompts_are_the_sentences_of_the_released_code(organ):
    assert prompt_of(organ) == f"remove artifacts for this {organ} CT slice"
    assert prompt_of("any") == "remove artifacts for this CT slice"


def test_an_organ_without_a_prompt_is_refused():
    with pytest.raises(ValueError, match="organ is 'spleen'.*chest, tooth, any"):
        prompt_of("spleen")
