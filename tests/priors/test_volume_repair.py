from __future__ import annotations

import pytest
import torch

from diffnr_lightning.priors import Conditioning, biplanar_conditioning, repair_volume
from diffnr_lightning.priors.volume_repair import repair_planes

SHAPE = (5, 7, 9)


class RecordingPrior:
    """Repairs by a given rule and keeps what it was shown."""

    def __init__(self, rule=None, context=1, size=None):
        self.rule = rule or (lambda slices, told: slices[:, slices.shape[1] // 2])
        self.context = context
        self.size = size
        self.slices: list[torch.Tensor] = []
        self.told: list[Conditioning] = []

    def repair(self, slices, conditioning):
        self.slices.append(slices.clone())
        self.told.append(conditioning)
        return self.rule(slices, conditioning)


def constant(value):
    return lambda slices, told: (slices[:, slices.shape[1] // 2] + value).clamp(0, 1)


def add_residual(slices, told):
    return (slices + told.residual)[:, slices.shape[1] // 2]


def plane_mark(slices, told):
    """A value for each plane: 0.1 axial, 0.3 coronal, 0.5 sagittal."""
    mark = 0.1 + 0.2 * told.plane.float()
    return mark[:, None, None].expand(len(slices), *slices.shape[-2:])


@pytest.fixture
def volume():
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.01


@pytest.fixture
def told():
    return biplanar_conditioning(torch.rand(4, 8, 8), torch.arange(4) * torch.pi / 4)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_axes_are_restored_on_a_volume_that_is_no_cube(volume, told, plane):
    repaired = repair_volume(RecordingPrior(constant(0.1)), volume, told, planes=(plane,))
    torch.testing.assert_close(repaired, volume + 0.1)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_the_residual_is_sliced_as_the_volume(volume, told, plane):
    residual = 0.1 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))
    prior = RecordingPrior(add_residual)
    repaired = repair_volume(prior, volume, told, planes=(plane,), batch_size=2, residual=residual)
    torch.testing.assert_close(repaired, volume + residual)
    shown = [
        (slices.shape, told.residual.shape)
        for slices, told in zip(prior.slices, prior.told, strict=True)
    ]
    assert all(slices == residual for slices, residual in shown)
    assert not repair_volume(prior, volume, told).sub(volume).any()  # unknown: zeros


def test_the_residual_is_resized_with_the_slices(told):
    flat = torch.full((3, 8, 12), 0.5)
    prior = RecordingPrior(add_residual, size=24)
    repaired = repair_volume(prior, flat, told, residual=0.5 * flat)
    torch.testing.assert_close(repaired, 1.5 * flat)
    assert prior.told[0].residual.shape == prior.slices[0].shape == (3, 3, 24, 24)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_the_noise_of_each_slice_is_shown(volume, told, plane):
    noise = 0.1 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))
    prior = RecordingPrior(lambda slices, told: (slices[:, 1:2] + told.noise)[:, 0])
    repaired = repair_volume(prior, volume, told, planes=(plane,), batch_size=2, noise=noise)
    torch.testing.assert_close(repaired, volume + noise)
    prior = RecordingPrior(prior.rule, size=24)
    flat = torch.full((3, 8, 12), 0.5)
    torch.testing.assert_close(repair_volume(prior, flat, told, noise=0.5 * flat), 1.5 * flat)
    with pytest.raises(ValueError, match="noise has shape"):
        repair_volume(prior, volume, told, noise=noise[1:])


def test_a_residual_of_another_shape_is_refused(volume, told):
    with pytest.raises(
        ValueError, match=r"residual has shape \(4, 7, 9\); \(5, 7, 9\) is expected"
    ):
        repair_volume(RecordingPrior(), volume, told, residual=volume[1:])


@pytest.mark.parametrize(("plane", "axis"), [("axial", 0), ("coronal", 1), ("sagittal", 2)])
def test_slices_lie_across_their_axis_in_order(volume, told, plane, axis):
    prior = RecordingPrior(context=0)
    repair_volume(prior, volume, told, planes=(plane,), batch_size=3)
    shown = torch.cat(prior.slices)[:, 0]
    assert torch.equal(shown, volume.movedim(axis, 0))
    assert max(map(len, prior.slices)) == 3
    assert {told.plane.item() for told in prior.told} == {axis}
    positions = torch.cat([told.position for told in prior.told])
    torch.testing.assert_close(positions, torch.linspace(-1, 1, SHAPE[axis]))


def test_projections_and_views_reach_the_prior(volume, told):
    prior = RecordingPrior()
    repair_volume(prior, volume, told)
    assert torch.equal(prior.told[0].biplanar, told.biplanar)
    assert prior.told[0].views.item() == 4


def test_planes_are_averaged(volume, told):
    three = ("axial", "coronal", "sagittal")
    repaired = repair_volume(RecordingPrior(plane_mark), volume, told, planes=three)
    torch.testing.assert_close(repaired, torch.full(SHAPE, 0.3))
    repaired = repair_volume(RecordingPrior(plane_mark), volume, told, planes=three[:2])
    torch.testing.assert_close(repaired, torch.full(SHAPE, 0.2))


def test_the_outermost_slice_stands_in_for_missing_neighbours(volume, told):
    prior = RecordingPrior(context=2)
    repair_volume(prior, volume, told, batch_size=99)
    (shown,) = prior.slices
    assert shown.shape == (5, 5, 7, 9)
    for index in range(5):
        for channel, offset in enumerate((-2, -1, 0, 1, 2)):
            assert torch.equal(shown[index, channel], volume[min(max(index + offset, 0), 4)])


def test_empty_slices_are_skipped_and_come_back_as_they_were(volume, told):
    volume[1] = 0.0005
    volume[3] = 0
    prior = RecordingPrior(constant(0.1))
    repaired = repair_volume(prior, volume, told)
    assert sum(map(len, prior.slices)) == 3
    assert torch.equal(repaired[[1, 3]], volume[[1, 3]])
    torch.testing.assert_close(repaired[[0, 2, 4]], volume[[0, 2, 4]] + 0.1)


def test_slices_of_air_are_left_to_the_other_planes(volume, told):
    volume[[0, 4]] = 0.015  # noisy air
    prior = RecordingPrior(constant(0.1))
    repaired = repair_volume(prior, volume, told, planes=("axial", "sagittal"))
    assert sum(len(shown) for shown in prior.slices) == 3 + SHAPE[2]
    torch.testing.assert_close(repaired, volume + 0.1)


def test_an_empty_volume_shows_the_prior_nothing(told):
    prior = RecordingPrior(constant(1))
    assert not repair_volume(prior, torch.zeros(SHAPE), told).any()
    assert prior.slices == []


def test_volume_is_clipped_before_the_prior_sees_it(told):
    volume = torch.tensor([-1.0, 0.5, 2.0])[:, None, None].expand(3, 4, 4)
    prior = RecordingPrior(context=0)
    repaired = repair_volume(prior, volume, told)
    assert torch.equal(repaired[:, 0, 0], torch.tensor([0.0, 0.5, 1.0]))
    assert torch.cat(prior.slices).max() == 1


def test_volume_and_its_gradient_are_left_alone(volume, told):
    volume.requires_grad_()
    before = volume.detach().clone()
    repaired = repair_volume(RecordingPrior(constant(0.1)), volume, told)
    assert not repaired.requires_grad
    assert torch.equal(volume.detach(), before)


def test_result_of_a_network_can_be_the_reference_of_a_loss(volume, told):
    class Inferring(RecordingPrior):
        @torch.inference_mode()
        def repair(self, slices, conditioning):
            return slices[:, 1] * 0.5

    repaired = repair_volume(Inferring(), volume, told)
    current = volume.clone().requires_grad_()
    (current * repaired).sum().backward()  # keeps the reference for the backward pass
    torch.testing.assert_close(current.grad, 0.5 * volume)


def test_what_a_network_draws_is_the_same_in_every_repair(volume, told):
    """So that a killed run, or a shard, repairs as any other; what is drawn elsewhere goes on as ever."""
    prior = RecordingPrior(lambda slices, told: torch.rand_like(slices[:, 0]))
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    first = repair_volume(prior, volume, told, batch_size=2)
    assert torch.equal(torch.rand(3), wanted)
    assert torch.equal(repair_volume(prior, volume, told, batch_size=2), first)
    assert not torch.equal(first[0], first[2])


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_slices_are_shown_at_the_size_that_the_prior_wants(volume, told, plane):
    prior = RecordingPrior(size=36)
    repair_volume(prior, volume, told, planes=(plane,))
    assert {shown.shape[-2:] for shown in prior.slices} == {(36, 36)}


def test_aspect_is_kept_and_the_missing_part_is_zero(told):
    prior = RecordingPrior(size=32, context=0)
    repair_volume(prior, torch.full((1, 8, 16), 0.5), told)
    (shown,) = prior.slices
    torch.testing.assert_close(shown[0, 0, :16], torch.full((16, 32), 0.5))
    assert not shown[0, 0, 16:].any()


@pytest.mark.parametrize("size", [11, 16, 32, 64])
def test_enlarging_and_reducing_keeps_smooth_content_in_place(told, size):
    z, y, x = torch.meshgrid(*(torch.linspace(0, 1, n) for n in (3, 12, 16)), indexing="ij")
    volume = 0.2 + 0.3 * y + 0.2 * x * (1 + z)
    repaired = repair_volume(RecordingPrior(constant(0.05), size=size), volume, told)
    inner = (slice(None), slice(1, -1), slice(1, -1))
    tolerance = 0.03 if size < 16 else 0.01
    torch.testing.assert_close(repaired[inner], volume[inner] + 0.05, atol=tolerance, rtol=0)


def test_a_needle_survives_the_reduction(told):
    volume = torch.full((1, 1, 300), 0.4)
    repaired = repair_volume(RecordingPrior(size=20), volume, told)
    assert repaired.shape == (1, 1, 300)


@pytest.mark.parametrize("wrong", [{"planes": ()}, {"batch_size": 0}])
def test_options_that_make_no_sense_are_refused(volume, told, wrong):
    with pytest.raises(ValueError, match="repair_volume got .*; expected"):
        repair_volume(RecordingPrior(), volume, told, **wrong)


def test_a_volume_that_diverged_is_refused(volume, told):
    volume[1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="volume holds voxels that are NaN"):
        repair_volume(RecordingPrior(), volume, told)


def test_volume_and_plane_are_checked(volume, told):
    with pytest.raises(ValueError, match=r"expected \(Z, Y, X\)"):
        repair_volume(RecordingPrior(), volume[0], told)
    with pytest.raises(ValueError, match="plane is 'radial'"):
        repair_volume(RecordingPrior(), volume, told, planes=("axial", "radial"))


@pytest.mark.parametrize(
    "planes", [("axial",), ("axial", "sagittal"), ("axial", "coronal", "sagittal")]
)
def test_the_spread_is_how_far_planes_differ(planes, told):
    volume = torch.rand(SHAPE, generator=torch.Generator().manual_seed(3)) * 0.5 + 0.25
    made = repair_planes(RecordingPrior(plane_mark), volume, told, planes=planes)
    marks = torch.tensor([{"axial": 0.1, "coronal": 0.3, "sagittal": 0.5}[p] for p in planes])
    torch.testing.assert_close(made.volume, marks.mean().expand(SHAPE))
    assert made.spread == pytest.approx(float(marks.var(correction=0)), abs=1e-7)
