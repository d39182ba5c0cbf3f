import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torchmetrics.functional.image import structural_similarity_index_measure

from diffnr_lightning.losses import ssim_2d_reference, ssim_3d
from diffnr_lightning.metrics import (
    PROTOCOLS,
    evaluate_volume,
    field_of_view,
    naf_protocol,
    projection_error,
    r2_protocol,
    strict_protocol,
)


def pair(shape=(18, 20, 22), noise=0.05):
    generator = np.random.default_rng(0)
    truth = gaussian_filter(generator.random(shape), 1.5).astype(np.float32)
    truth = (truth - truth.min()) / np.ptp(truth)
    return truth + noise * generator.standard_normal(shape).astype(np.float32), truth


def test_protocols_are_the_three_names():
    prediction, truth = pair()
    scores = evaluate_volume(prediction, truth)
    assert list(scores) == ["r2", "naf", "strict"] == list(PROTOCOLS)
    assert all(set(score) == {"psnr", "ssim"} for score in scores.values())


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_equal_volumes_are_perfect(name):
    _, truth = pair()
    score = PROTOCOLS[name](truth, truth)
    assert score["psnr"] == math.inf
    assert score["ssim"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_more_noise_scores_worse(name):
    little, truth = pair(noise=0.02)
    much, _ = pair(noise=0.1)
    better, worse = PROTOCOLS[name](little, truth), PROTOCOLS[name](much, truth)
    assert better["psnr"] > worse["psnr"]
    assert better["ssim"] > worse["ssim"]


def test_a_constant_offset_has_a_closed_psnr():
    _, truth = pair()
    assert r2_protocol(truth + 0.1, truth)["psnr"] == pytest.approx(20, abs=1e-4)
    assert naf_protocol(truth + 0.1, truth)["psnr"] == pytest.approx(20, abs=1e-4)
    halved = 0.5 * truth
    strict = strict_protocol(halved + 0.1, halved, np.ones(truth.shape, bool))
    assert strict["psnr"] == pytest.approx(20 * math.log10(0.5 / 0.1), abs=1e-3)


def test_only_strict_clips_the_prediction():
    _, truth = pair()
    outside = truth.copy()
    outside[truth == truth.max()] = 3.0
    everywhere = np.ones(truth.shape, bool)
    assert strict_protocol(outside, truth, everywhere)["psnr"] == math.inf
    assert r2_protocol(outside, truth)["psnr"] < 40


def test_r2_equals_the_loss_of_the_same_name():
    prediction, truth = pair()
    truth[:4] = 0
    truth[:, :, 20:] = 0
    loss = ssim_3d(torch.from_numpy(prediction), torch.from_numpy(truth))
    assert r2_protocol(prediction, truth)["ssim"] == pytest.approx(loss.item(), abs=1e-5)


def test_r2_ignores_the_prediction_in_slices_that_are_empty_in_all_axes():
    prediction, truth = pair()
    truth[0] = 0
    before = r2_protocol(prediction, truth)["ssim"]
    ours = ssim_2d_reference(torch.from_numpy(prediction[:1]), torch.from_numpy(truth[:1]))
    assert ours.item() < 0.5
    prediction[0] = 0
    assert r2_protocol(prediction, truth)["ssim"] > before


def window_loop(x, y, data_range):
    """Uniform 7^3 SSIM, window by window, as its definition says."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for z, j, i in np.ndindex(*(n - 6 for n in x.shape)):
        a, b = (v[z : z + 7, j : j + 7, i : i + 7].ravel().astype(float) for v in (x, y))
        covariance = np.cov(a, b)
        values.append(
            (2 * a.mean() * b.mean() + c1)
            * (2 * covariance[0, 1] + c2)
            / ((a.mean() ** 2 + b.mean() ** 2 + c1) * (np.trace(covariance) + c2))
        )
    return np.mean(values)


def test_naf_equals_its_definition_window_by_window():
    prediction, truth = pair((9, 10, 8))
    expected = window_loop(prediction, truth, 2.0)
    assert naf_protocol(prediction, truth)["ssim"] == pytest.approx(expected, abs=1e-6)
    assert expected > window_loop(prediction, truth, 1.0)


def test_strict_equals_torchmetrics_where_no_window_leaves_the_volume():
    # torchmetrics reflects at the border and we renormalise; in a frame of zeros both are the same.
    prediction, truth = (np.pad(np.clip(v, 0, 1), 11) for v in pair((14, 15, 16)))
    _, full = structural_similarity_index_measure(
        *(torch.from_numpy(v)[None, None].double() for v in (prediction, truth)),
        data_range=1.0,
        return_full_image=True,
    )
    score = strict_protocol(prediction, truth, np.ones(truth.shape, bool))
    assert full.numel() == truth.size
    assert score["ssim"] == pytest.approx(full.mean().item(), abs=1e-5)


def test_strict_looks_inside_the_mask_only():
    prediction, truth = pair()
    inside = field_of_view(truth.shape)
    before = strict_protocol(prediction, truth)
    spoiled, other = prediction.copy(), truth.copy()
    spoiled[~inside] = 0.9
    other[~inside] = 0.1
    assert strict_protocol(spoiled, other) == pytest.approx(before)
    assert strict_protocol(prediction, truth, inside) == before


def test_background_earns_nothing_under_strict():
    prediction, truth = pair()
    padding = ((0, 0), (20, 20), (20, 20))
    wide = [np.pad(v, padding) for v in (prediction, truth)]
    body = np.pad(np.ones(truth.shape, bool), padding)
    assert r2_protocol(*wide)["psnr"] > r2_protocol(prediction, truth)["psnr"] + 3
    strict = strict_protocol(*wide, body)
    assert strict == pytest.approx(strict_protocol(prediction, truth, np.ones(truth.shape, bool)))


def test_field_of_view_is_the_inscribed_cylinder():
    mask = field_of_view((3, 100, 100))
    assert mask.mean() == pytest.approx(math.pi / 4, abs=0.01)
    assert mask[1, 50, 50]
    assert not mask[1, 0, 0]
    assert (mask == mask[:1]).all()
    assert (field_of_view((3, 100, 100), (5.0, 0.3, 0.3)) == mask).all()


def test_field_of_view_is_round_in_mm():
    """40 mm by 50 mm of voxels of 0.4 mm by 1 mm."""
    mask = field_of_view((2, 100, 50), (3.0, 0.4, 1.0))
    assert mask.sum() * 0.4 == pytest.approx(2 * math.pi * 20**2, rel=0.01)
    assert mask[0, 0, 25] and mask[0, 50, 5] and not mask[0, 50, 4]


def test_projection_error_counts_scale():
    _, truth = pair((5, 30, 31))
    truth = truth * np.array([1, 50, 3, 9, 0], np.float32)[:, None, None]
    score = projection_error(1.1 * truth, truth)
    assert score["relative_l2"] == pytest.approx(0.1, rel=1e-5)
    views = [
        -10 * math.log10(np.mean((0.1 * view / view.max()) ** 2))
        for view in truth
        if view.max() > 0
    ]
    assert score["psnr"] == pytest.approx(np.mean(views), abs=1e-4)
    assert score["ssim"] < 1
    assert projection_error(truth, truth)["relative_l2"] == 0


def test_tensors_are_served():
    prediction, truth = pair()
    assert r2_protocol(torch.from_numpy(prediction), torch.from_numpy(truth)) == r2_protocol(
        prediction, truth
    )


def test_a_homogeneous_object_is_scored_without_its_range():
    """Water that fills the field, or an object wholly outside of the cylinder."""
    water = field_of_view((8, 16, 16)).astype(np.float32)
    corner = np.zeros_like(water)
    corner[:, 0, 0] = 1
    for truth in (water, corner):
        assert list(evaluate_volume(truth + 0.1, truth)) == ["r2", "naf"]
    assert "strict" in evaluate_volume(water, water, np.ones(water.shape, bool))


def test_what_cannot_be_compared_is_refused():
    prediction, truth = pair()
    with pytest.raises(ValueError, match=r"\(18, 20, 22\).*\(17, 20, 22\)"):
        evaluate_volume(prediction, truth[1:])
    prediction[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="prediction holds NaN"):
        evaluate_volume(prediction, truth)
    with pytest.raises(ValueError, match="no value above 0"):
        r2_protocol(truth, np.zeros_like(truth))
    with pytest.raises(ValueError, match="7 voxels"):
        naf_protocol(truth[:6], truth[:6])
    with pytest.raises(ValueError, match="constant inside the mask"):
        strict_protocol(truth, np.full_like(truth, 0.5))
    with pytest.raises(ValueError, match="0 voxels"):
        strict_protocol(truth, truth, np.zeros(truth.shape, bool))
    with pytest.raises(ValueError, match=r"\(V, H, W\)"):
        projection_error(truth[0], truth[0])
    with pytest.raises(ValueError, match="nothing to compare"):
        projection_error(truth, np.zeros_like(truth))
