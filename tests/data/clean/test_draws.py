import numpy as np
import pytest
import torch

from diffnr_lightning.data.clean.draws import (
    HeldOutPatches,
    HeldOutStacks,
    PatchDraws,
    StackDraws,
    neighbours,
    window,
)

OPTIONS = {"batch_size": 2, "channels": 3, "gaps": (0, 1, 3), "crops": (8, 16)}


def ramp(shape=(12, 16, 20)):
    """A volume whose values say where they lie."""
    z, y, x = (torch.linspace(0.1, 1, n) for n in shape)
    return (z[:, None, None] * y[:, None] * x).half()


def test_neighbours_are_a_gap_apart_and_end_with_the_volume():
    volume = torch.arange(10.0)[:, None, None].expand(10, 4, 4)
    assert neighbours(volume, 0, 5, 3, 3)[:, 0, 0].tolist() == [2, 5, 8]
    assert neighbours(volume, 0, 9, 1, 3)[:, 0, 0].tolist() == [8, 9, 9]
    assert neighbours(volume, 0, 4, 0, 3)[:, 0, 0].tolist() == [4, 4, 4]


def test_a_window_is_a_crop_with_the_places_of_its_pixels_and_air_beyond():
    stack = torch.rand(2, 9, 11)
    cut, coordinates = window(stack, (-2, 3), 6)
    torch.testing.assert_close(cut[:, 2:], stack[:, :4, 3:9])
    assert cut[:, :2].abs().max() < 1e-5
    assert coordinates[0, 2, 0] == -1
    assert coordinates[1, 0, 2] == pytest.approx(0)
    mirrored, same = window(stack, (0, 0), 9, mirrored=True)
    torch.testing.assert_close(mirrored, stack.flip(2)[:, :, :9])
    assert torch.equal(same, window(stack, (0, 0), 9)[1])
    # The middle stays where it is.
    magnified, _ = window(stack, (4, 5), 1, magnified=2.0)
    torch.testing.assert_close(magnified, stack[:, 4:5, 5:6])


def test_batches_of_stacks_depend_on_seed_iteration_and_process():
    draws = [
        StackDraws({"a": ramp(), "b": ramp()}, 8, seed=seed, rank=rank, world_size=2, **OPTIONS)
        for seed, rank in ((1, 0), (1, 0), (1, 1), (2, 0))
    ]
    first, again, other, seeded = (d[3] for d in draws)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for different in (other, seeded):
        assert different.clean.shape != first.clean.shape or not torch.equal(
            different.clean, first.clean
        )
    sizes = {tuple(draws[0][i].clean.shape) for i in range(8)}
    assert sizes == {(8, 3, 8, 8), (2, 3, 16, 16)}
    batch = draws[0][0]
    assert set(torch.cat([draws[0][i].gap for i in range(8)]).tolist()) == {0, 1, 3}
    assert batch.coordinates.shape[1:] == (2, *batch.clean.shape[2:])
    for stacks in (draws[0][i] for i in range(3)):
        alike = stacks.clean[stacks.gap == 0]
        torch.testing.assert_close(alike[:, 0], alike[:, 2])


def test_empty_slices_are_passed_over():
    volume = torch.zeros(16, 16, 16)
    volume[7] = 0.5
    options = {**OPTIONS, "gaps": (0,), "crops": (16,), "planes": ("axial",), "empty_share": 0.0}
    found = StackDraws({"a": volume}, 4, reach=0, zoom=(1.0, 1.0), **options)
    assert sum(float(found[i].clean.amax(dim=(1, 2, 3)).min()) > 0.4 for i in range(4)) >= 3


def test_held_out_stacks_are_middles_of_every_volume_and_plane():
    held = HeldOutStacks({"a": ramp()}, slices=4, channels=3, gaps=(0, 1), crop=8)
    assert len(held) == 3
    axial = held[0]
    assert axial.clean.shape == (4, 3, 8, 8)
    assert axial.gap.tolist() == [0, 1, 0, 1]
    torch.testing.assert_close(axial.clean[1, 0], ramp()[3, 4:12, 6:14].float())


def test_patches_lie_inside_and_at_the_faces():
    draws = PatchDraws({"a": ramp()}, 50, batch_size=4, size=8)
    corners = torch.cat([draws[i].corner for i in range(50)])
    assert corners.amin(dim=0).tolist() == [0, 0, 0]
    assert corners.amax(dim=0).tolist() == [4, 8, 12]
    # Tiles with a random offset reach beyond a face with the chance (size - 1) / (count + size - 1).
    assert np.mean(corners[:, 2].numpy() == 0) == pytest.approx(8 / 27, abs=0.1)
    assert not torch.equal(draws[0].corner, draws[1].corner)
    held = HeldOutPatches({"a": ramp()}, size=8)[0]
    assert held.corner.tolist()[0] == [1, 2, 3]
    assert len(held.corner) == 8
