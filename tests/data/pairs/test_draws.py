"""Slices that are drawn from curated scans, and those that are held out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from curated_scans import same, scan

from diffnr_lightning.data.slice_pairs import HeldOutSlices, HeldOutVolumes, SlicePairDataset


def plain(scans, length=50, **changed) -> SlicePairDataset:
    """Crops without magnification, gain and dropout."""
    options = {"crop": 8, "zoom": (1, 1), "gain": (1, 1), "dropout": 0.0, **changed}
    return SlicePairDataset(scans, length, **options)


class TestDraws:
    def test_item_depends_on_seed_and_number_only(self):
        scans = [scan(), scan("other", seed=1)]
        first = SlicePairDataset(scans, 30, seed=4, crop=8)
        items = [first[i] for i in range(30)]
        again = SlicePairDataset(scans, 1000, seed=4, crop=8)
        np.random.seed(5)
        torch.manual_seed(5)
        for i in reversed(range(30)):
            assert same(again[i], items[i])
        other = SlicePairDataset(scans, 30, seed=5, crop=8)
        assert not any(same(other[i], items[i]) for i in range(30))
        assert not any(same(items[i], items[j]) for i in range(30) for j in range(i))

    def test_the_residual_is_cut_as_the_slices(self):
        dataset = SlicePairDataset([scan()], 40, crop=8, context=1, gain=(0.5, 0.5), dropout=0.0)
        for i in range(40):
            item = dataset[i]
            assert item.residual.shape == item.degraded.shape
            missing = item.clean[0] - item.degraded[1]
            torch.testing.assert_close(item.residual[1], missing, atol=2e-3, rtol=0)

    def test_the_noise_is_cut_and_scaled_as_the_slice_and_hidden_apart_from_it(self):
        dataset = SlicePairDataset([scan()], 40, crop=8, gain=(0.5, 0.5), dropout=0.0)
        for i in range(40):
            item = dataset[i]
            torch.testing.assert_close(item.noise, 0.2 * item.clean, atol=1e-3, rtol=0)
        hidden = [
            (bool(item.noise.any()), bool(item.residual.any()))
            for item in map(
                SlicePairDataset([scan()], 60, crop=8, dropout=0.5).__getitem__, range(60)
            )
        ]
        assert len(set(hidden)) == 4
        pairs = scan()
        held_out = HeldOutSlices([pairs], slices=2)[0]
        torch.testing.assert_close(held_out.noise, 0.2 * held_out.clean, atol=1e-3, rtol=0)
        assert torch.equal(HeldOutVolumes([pairs])[0].noise, pairs.noise.float())
        unknown = pairs._replace(noise=None)
        for item in (
            SlicePairDataset([unknown], 1, crop=8)[0],
            HeldOutSlices([unknown], slices=2)[0],
        ):
            assert item.noise.shape == item.clean.shape and not item.noise.any()
        assert not HeldOutVolumes([unknown])[0].noise.any()

    def test_an_unknown_residual_is_zero(self):
        for dropped, kept in ((scan(), 1.0), (scan()._replace(residual=None), 0.0)):
            item = SlicePairDataset([dropped], 1, crop=8, dropout=kept)[0]
            assert item.residual.shape == item.degraded.shape and not item.residual.any()
        held_out = HeldOutSlices([scan()._replace(residual=None)], slices=2)[0]
        assert held_out.residual.shape == held_out.degraded.shape and not held_out.residual.any()

    def test_shapes_and_types(self):
        item = SlicePairDataset([scan()], 10, crop=12, context=2)[0]
        assert item.degraded.shape == (5, 12, 12)
        assert item.clean.shape == (1, 12, 12)
        assert item.biplanar.shape == (2, 8, 8)
        assert item.plane.dtype == torch.int64
        assert {t.dtype for t in item if t is not item.plane} == {torch.float32}
        assert item.position.shape == item.plane.shape == item.views.shape == ()

    @pytest.mark.parametrize("crop", [8, 24])
    def test_crops_flips_and_zoom_keep_degraded_and_clean_aligned(self, crop):
        data = SlicePairDataset([scan(equal=True)], 60, crop=crop, zoom=(0.5, 2), gain=(0.5, 1.5))
        for i in range(60):
            assert torch.equal(data[i].degraded[1:2], data[i].clean)
            assert data[i].clean.max() <= 1

    def test_crops_are_squares_of_the_slice_flipped_or_not(self):
        pairs = scan()
        data = plain([pairs], context=0)
        flips = set()
        for i in range(50):
            item = data[i]
            axis = int(item.plane)
            index = round((item.position.item() + 1) / 2 * (pairs.clean.shape[axis] - 1))
            whole = pairs.clean.select(axis, index).float()
            squares = whole.unfold(0, 8, 1).unfold(1, 8, 1)
            found = [
                axes
                for axes in ((), (0,), (1,), (0, 1))
                if (squares == item.clean[0].flip(axes)).all(dim=(-1, -2)).any()
            ]
            assert len(found) == 1
            flips.add(found[0])
        assert flips == {(), (0,), (1,), (0, 1)}

    def test_neighbours_lie_around_the_slice_and_are_repeated_at_the_ends(self):
        pairs = scan(equal=True)
        ramp = torch.linspace(0.1, 1, 10).half()[:, None, None].expand(10, 14, 18)
        pairs = pairs._replace(clean=ramp, degraded=ramp.expand(2, *ramp.shape))
        ends = set()
        for item in map(plain([pairs], planes=("axial",), context=2).__getitem__, range(50)):
            index = round((item.position.item() + 1) / 2 * 9)
            expected = [ramp[min(max(index + o, 0), 9), 0, 0].item() for o in range(-2, 3)]
            assert item.degraded[:, 0, 0].tolist() == pytest.approx(expected)
            ends.add(index)
        assert ends == set(range(10))

    def test_planes_scans_and_snapshots_are_drawn_equally_often(self):
        scans = [scan("one"), scan("two", shape=(30, 30, 30), seed=1)]
        scans[0].degraded[:] = torch.tensor([0.2, 0.4])[:, None, None, None]
        scans[1].degraded[:] = torch.tensor([0.6, 0.8])[:, None, None, None]
        items = [plain(scans, 600)[i] for i in range(600)]
        planes = torch.bincount(torch.stack([item.plane for item in items]))
        assert (planes - 200).abs().max() < 50
        levels = torch.stack([item.degraded.mean() for item in items])
        counts = torch.bincount((levels / 0.2).round().long())[1:]
        assert (counts - 150).abs().max() < 45

    def test_scans_are_drawn_by_their_chances(self):
        scans = [scan("one"), scan("two", seed=1), scan("three", seed=2)]
        for level, each in zip((0.2, 0.4, 0.6), scans, strict=True):
            each.degraded[:] = level
        drawn = plain(scans, 400, chances=np.array([0.7, 0.3, 0.0]))
        levels = torch.stack([drawn[i].degraded.mean() for i in range(400)])
        counts = torch.bincount((levels / 0.2).round().long(), minlength=4)[1:]
        assert counts[2] == 0
        assert abs(int(counts[0]) - 280) < 45

    def test_only_the_planes_wanted_are_drawn(self):
        data = plain([scan()], planes=("coronal",))
        assert {int(data[i].plane) for i in range(20)} == {1}

    def test_projections_are_drawn_one_by_one_whatever_the_planes(self):
        shown = scan()
        shown.info["kind"] = "projections"
        drawn = plain([shown])
        assert {int(drawn[i].plane) for i in range(20)} == {0}
        kept = HeldOutSlices([shown], planes=("axial", "coronal", "sagittal"))
        assert [int(kept[i].plane[0]) for i in range(len(kept))] == [0, 0]

    def test_magnification_shows_less_of_the_slice(self):
        pairs = scan(shape=(1, 64, 64))
        ramp = torch.linspace(0, 1, 64).half().expand(2, 1, 64, 64)
        pairs = pairs._replace(degraded=ramp, clean=ramp[0])
        spans = []
        for i in range(80):
            row = plain([pairs], 80, crop=16, zoom=(0.5, 2), planes=("axial",))[i].clean[0, 0]
            spans.append((row[-1] - row[0]).abs().item() * 63 / 15)
        spans = torch.tensor(spans)
        assert 0.3 < ((spans - 1).abs() < 0.02).float().mean() < 0.7  # half stay as they are
        assert spans.min() < 0.7 and spans.max() > 1.5
        assert spans.min() > 0.45 and spans.max() < 2.2

    def test_gain_and_dropout(self):
        pairs = scan()
        pairs.clean[:] = 0.5
        doubled = plain([pairs], gain=(1.5, 1.5))[0]
        torch.testing.assert_close(doubled.clean, torch.full((1, 8, 8), 0.75))
        items = [plain([pairs], 200, dropout=0.5)[i] for i in range(200)]
        hidden = torch.tensor([[not i.biplanar.any(), i.views.item() == 0] for i in items])
        assert (hidden.float().mean(dim=0) - 0.5).abs().max() < 0.15
        assert (hidden[:, 0] != hidden[:, 1]).any()  # one apart from the other
        assert {i.views.item() for i in items} == {0.0, 24.0}

    def test_slices_that_show_nothing_are_rare(self):
        pairs = scan(shape=(40, 8, 8))
        pairs.clean[4:] = 0
        options = {"planes": ("axial",), "crop": 8}
        shown = [plain([pairs], 100, empty_share=0.0, **options)[i].clean.any() for i in range(100)]
        assert sum(map(bool, shown)) > 90
        data = plain([pairs], 100, empty_share=1.0, **options)
        assert sum(bool(data[i].clean.any()) for i in range(100)) < 30
        pairs.clean[:] = 0
        assert not plain([pairs], empty_share=0.0, **options)[0].clean.any()

    def test_a_slice_smaller_than_the_crop_is_magnified(self):
        item = plain([scan(shape=(3, 5, 4), equal=True)], crop=16)[0]
        assert item.clean.shape == (1, 16, 16)
        assert plain([scan()], crop=1, zoom=(4, 4))[3].clean.shape == (1, 1, 1)

    def test_processes_draw_different_items_of_one_sequence(self):
        alone = plain([scan()])
        pair = [plain([scan()], rank=rank, world_size=2) for rank in range(2)]
        for i in range(8):
            assert same(pair[i % 2][i // 2], alone[i])


class TestHeldOut:
    def test_blocks_are_fixed(self):
        scans = [scan(), scan("other", seed=1)]
        options = {"slices": 3, "planes": ("axial", "sagittal")}
        blocks, again = HeldOutSlices(scans, **options), HeldOutSlices(scans, **options)
        assert len(blocks) == 2 * 2 * 2
        assert all(same(blocks[i], again[i]) for i in range(8))

    def test_blocks_are_whole_slices_spread_over_the_volume(self):
        pairs = scan()
        block = HeldOutSlices([pairs], slices=5, context=1)[1]
        assert block.degraded.shape == (5, 3, 14, 18)
        positions = [1, 3, 5, 7, 9]
        assert torch.equal(block.clean[:, 0], pairs.clean[positions].float())
        assert torch.equal(block.degraded[:, 1], pairs.degraded[1, positions].float())
        assert torch.equal(block.degraded[-1, 2], pairs.degraded[1, 9].float())
        torch.testing.assert_close(block.position, torch.tensor(positions) * 2 / 9 - 1)
        assert block.plane.tolist() == [0] * 5
        assert block.views.tolist() == [24.0] * 5
        assert block.biplanar.shape == (5, 2, 8, 8)

    def test_slices_that_show_nothing_are_left_out(self):
        pairs = scan()
        pairs.clean[:4] = 0
        positions = HeldOutSlices([pairs], slices=20)[0].position
        torch.testing.assert_close(positions, torch.arange(4, 10) * 2 / 9 - 1)
        pairs.clean[:] = 0
        assert HeldOutSlices([pairs], slices=20)[0].clean.shape == (10, 1, 14, 18)


def test_crops_that_are_not_flipped_lie_as_in_the_slice():
    options = {"crop": 12, "zoom": (1, 1), "gain": (1, 1), "planes": ("axial",), "flips": False}
    pairs = scan("spine", shape=(6, 12, 12))
    drawn = SlicePairDataset([pairs], 8, **options)
    for item in range(8):
        clean = drawn[item].clean[0]
        assert any(torch.equal(clean, pairs.clean[z].float()) for z in range(6))
