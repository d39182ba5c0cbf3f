"""What a network sees and answers is of size 1, and its answer 0 is the best linear estimate."""

import pytest
import torch

from diffnr_lightning.priors import CompactDenoiser, NoiseSchedule, PatchDenoiser
from diffnr_lightning.priors.denoisers.preconditioning import preconditioned

SCHEDULE = NoiseSchedule.from_scheduler({"prediction_type": "v_prediction"})
MEAN, DEVIATION = -0.7, 0.4
STEPS = torch.tensor([0, 30, 400, 999])


def images():
    generator = torch.Generator().manual_seed(0)
    clean = MEAN + DEVIATION * torch.randn(4, 1, 64, 64, generator=generator)
    noise = torch.randn(4, 1, 64, 64, generator=generator)
    return clean, noise, SCHEDULE.add_noise(clean, noise, STEPS)


def test_what_the_network_sees_and_answers_is_of_size_1():
    clean, noise, noisy = images()
    scaled = preconditioned((MEAN, DEVIATION), SCHEDULE)
    seen = scaled.entering(noisy, STEPS, SCHEDULE).flatten(1)
    torch.testing.assert_close(seen.mean(dim=1), torch.zeros(4), atol=0.05, rtol=0)
    torch.testing.assert_close(seen.std(dim=1), torch.ones(4), atol=0.05, rtol=0)
    # The answer is what makes the target of it, which is linear in the answer.
    target = SCHEDULE.target(clean, noise, STEPS)
    nothing = scaled.leaving(torch.zeros_like(noisy), noisy, STEPS, SCHEDULE)
    one = scaled.leaving(torch.ones_like(noisy), noisy, STEPS, SCHEDULE)
    answer = (target - nothing) / (one - nothing)
    torch.testing.assert_close(answer.flatten(1).std(dim=1), torch.ones(4), atol=0.05, rtol=0)
    weights = scaled.weights(STEPS, SCHEDULE)
    errors = (one - nothing).square().flatten(1).mean(dim=1)
    torch.testing.assert_close(weights * errors, torch.ones(4))


def test_no_answer_is_the_best_linear_estimate():
    clean, _, noisy = images()
    scaled = preconditioned((MEAN, DEVIATION), SCHEDULE)
    output = scaled.leaving(torch.zeros_like(noisy), noisy, STEPS, SCHEDULE)
    found = SCHEDULE.estimate(noisy, SCHEDULE.noise_of(output, noisy, STEPS), STEPS)
    signal, deviation = (level.flatten() for level in SCHEDULE.levels(STEPS, noisy))
    gain = signal * DEVIATION**2 / (signal**2 * DEVIATION**2 + deviation**2)
    expected = MEAN + gain.view(-1, 1, 1, 1) * (noisy - signal.view(-1, 1, 1, 1) * MEAN)
    torch.testing.assert_close(found[:3], expected[:3], rtol=1e-3, atol=1e-4)
    # At the noisiest step nothing is known but the mean, and the division by the signal is ill conditioned.
    torch.testing.assert_close(found[3], expected[3], rtol=0, atol=0.02)
    assert ((found - clean).square().mean(dim=(1, 2, 3)) < DEVIATION**2 * 1.1).all()


@pytest.mark.parametrize(
    ("denoiser", "shape"),
    [
        (CompactDenoiser(1, (8, 16), gaps=0, voxels=(MEAN, DEVIATION)), (2, 1, 12, 12)),
        (PatchDenoiser(8, (8, 16), embedding=16, voxels=(MEAN, DEVIATION)), (2, 1, 8, 8, 8)),
    ],
    ids=["slices", "patches"],
)
def test_an_untrained_network_knows_the_linear_estimate(denoiser, shape):
    final = denoiser.conv_out if isinstance(denoiser, PatchDenoiser) else denoiser.unet.conv_out
    for parameter in final.parameters():
        parameter.data.zero_()
    assert denoiser.architecture["voxels"] == [MEAN, DEVIATION]
    clean = MEAN + DEVIATION * torch.randn(shape)
    for step in (20, 300):
        noisy = denoiser.schedule.add_noise(clean, torch.randn(shape), step)
        noise = denoiser.predict(noisy, step)
        found = denoiser.schedule.estimate(noisy, noise, step)
        signal, deviation = denoiser.schedule.levels(step, noisy)
        gain = signal * DEVIATION**2 / (signal**2 * DEVIATION**2 + deviation**2)
        torch.testing.assert_close(
            found, MEAN + gain * (noisy - signal * MEAN), rtol=1e-4, atol=1e-4
        )


def test_what_cannot_be_scaled_is_refused():
    with pytest.raises(ValueError, match="positive deviation of clean voxels"):
        CompactDenoiser(voxels=(0.0, 0.0))
    with pytest.raises(ValueError, match="v_prediction and a schedule that preserves"):
        CompactDenoiser(prediction="epsilon", voxels=(0.0, 1.0))
    with pytest.raises(ValueError, match="v_prediction and a schedule that preserves"):
        preconditioned((0.0, 1.0), NoiseSchedule.exploding())
