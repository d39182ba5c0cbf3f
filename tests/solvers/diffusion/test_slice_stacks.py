"""Stacks speak for every slice once, and noise comes back to the slices that it was found in."""

import pytest
import torch
from gaussian_denoiser import GaussianDenoiser

from diffnr_lightning.solvers.diffusion.slice_noise import slice_noise
from diffnr_lightning.solvers.diffusion.slice_stacks import (
    adjacent_stacks,
    centred_stacks,
    jumping_stacks,
    predicted_noise,
    single_slices,
)


class Echo(GaussianDenoiser):
    """Finds the image itself to be noise."""

    def predict(self, noisy, step, told=None):
        super().predict(noisy, step, told)
        return noisy


@pytest.mark.parametrize("count", [1, 2, 5, 9, 11, 27])
@pytest.mark.parametrize(
    "make",
    [
        single_slices,
        lambda n: centred_stacks(n, 3),
        *(lambda n, o=o: adjacent_stacks(n, 3, o) for o in range(3)),
        lambda n: jumping_stacks(n, 3),
    ],
    ids=["single", "centred", "adjacent 0", "adjacent 1", "adjacent 2", "jumping"],
)
def test_noise_comes_back_to_its_slice(make, count):
    stacks, volume = make(count), torch.randn(count, 4, 5)
    denoiser = Echo(channels=3, gaps=4)
    assert torch.equal(predicted_noise(volume, 7, denoiser, stacks, 2), volume)
    assert {gap for _, _, gap in denoiser.asked} == {stacks.gap}
    steps = torch.diff(stacks.members, dim=1)
    assert ((steps == stacks.gap) | (stacks.members[:, 1:] == count - 1) | (steps == 0)).all()


def test_stacks_are_those_of_the_paper():
    assert jumping_stacks(9, 3).members.tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    assert adjacent_stacks(9, 3, 0).owners.tolist() == [*range(6, 9), *range(9, 12), *range(12, 15)]
    rows = adjacent_stacks(10, 3, 2).members.tolist()
    assert rows == [[0, 1, 2], [7, 8, 9], [2, 3, 4], [5, 6, 7]]
    assert centred_stacks(3, 3).members.tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 2]]


def test_correlated_noise_is_shared_by_neighbours_alone():
    like = torch.zeros(20, 64, 64, dtype=torch.float64)
    noise = slice_noise("correlated", like, 3, 5)
    torch.testing.assert_close(
        noise.var(dim=(1, 2)), torch.ones(20, dtype=like.dtype), rtol=0.1, atol=0.0
    )
    products = (noise[:-1] * noise[1:]).mean(dim=(1, 2))
    assert float(products.min()) > 0.9
    assert abs(float((noise[0] * noise[-1]).mean())) < 0.06
    alone = slice_noise("independent", like, 3, 5)
    assert abs(float((alone[:-1] * alone[1:]).mean())) < 0.02
    assert torch.equal(noise, slice_noise("correlated", like, 3, 5))
    assert not torch.equal(alone, slice_noise("independent", like, 3, 6))
    assert not torch.equal(alone, slice_noise("independent", like, 4, 5))
