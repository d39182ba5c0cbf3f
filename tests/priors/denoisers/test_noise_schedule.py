"""The schedules are those of diffusers, and noise goes in and out of images without loss."""

import pytest
import torch
from diffusers import DDPMScheduler

from diffnr_lightning.priors import NoiseSchedule

PREDICTIONS = ("epsilon", "v_prediction", "sample")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 300},
        {"trained_betas": [0.1, 0.2, 0.3], "num_train_timesteps": 3},
    ],
    ids=["linear", "scaled", "cosine", "trained"],
)
def test_schedules_are_those_of_diffusers(options):
    theirs = DDPMScheduler(**options)
    ours = NoiseSchedule.from_scheduler(theirs.config)
    torch.testing.assert_close(ours.alpha_bar.float(), theirs.alphas_cumprod, rtol=2e-4, atol=1e-7)
    torch.testing.assert_close(ours.alpha_bar + ours.deviation**2, torch.ones(ours.steps).double())
    clean, noise = torch.randn(2, 4, 2, 5, 5).unbind()
    steps = torch.tensor([0, 1, 2, ours.steps - 1])
    for prediction in PREDICTIONS:
        theirs.register_to_config(prediction_type=prediction)
        schedule = ours._replace(prediction=prediction)
        noisy = schedule.add_noise(clean, noise, steps)
        torch.testing.assert_close(noisy, theirs.add_noise(clean, noise, steps))
        output = schedule.target(clean, noise, steps)
        if prediction == "v_prediction":
            torch.testing.assert_close(output, theirs.get_velocity(clean, noise, steps))
        torch.testing.assert_close(
            schedule.noise_of(output, noisy, steps), noise, rtol=1e-3, atol=1e-3
        )
        one = schedule.noise_of(output[3:], noisy[3:], ours.steps - 1)
        torch.testing.assert_close(one, noise[3:], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "schedule",
    [NoiseSchedule.from_scheduler({}), NoiseSchedule.exploding(0.01, 50.0, 100)],
    ids=["preserving", "exploding"],
)
def test_noise_goes_in_and_out(schedule):
    clean, noise, fresh = torch.randn(3, 2, 1, 6, 6, dtype=torch.float64).unbind()
    noisy = schedule.add_noise(clean, noise, 70)
    both = schedule.add_noise(clean, noise, torch.tensor([70, 3]))
    assert torch.equal(both[0], noisy[0])
    assert not torch.equal(both[1], noisy[1])
    torch.testing.assert_close(schedule.estimate(noisy, noise, 70), clean)
    torch.testing.assert_close(schedule.noise(noisy, clean, 70), noise)
    assert schedule.ddim_step(clean, noise, None, None, 0.5) is clean
    torch.testing.assert_close(
        schedule.ddim_step(clean, noise, 40, None, 0.0), schedule.add_noise(clean, noise, 40)
    )
    mixed = schedule.ddim_step(clean, noise, 40, fresh, 0.8)
    torch.testing.assert_close(schedule.noise(mixed, clean, 40), 0.8 * fresh + 0.6 * noise)


def test_ancestral_steps_are_those_of_ddpm():
    theirs = DDPMScheduler(clip_sample=False)
    theirs.set_timesteps(100)
    ours = NoiseSchedule.from_scheduler(theirs.config)
    noisy, noise = torch.randn(2, 1, 1, 64, 64).unbind()
    fresh = torch.randn(noisy.shape, generator=torch.Generator().manual_seed(1))
    wanted = theirs.step(noise, 500, noisy, torch.Generator().manual_seed(1)).prev_sample
    clean, eta = ours.estimate(noisy, noise, 500), ours.ancestral(500, 490)
    found = ours.ddim_step(clean, noise, 490, fresh, eta)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def test_the_noise_of_an_exploding_schedule_is_geometric():
    schedule = NoiseSchedule.from_scheduler(
        {"_class_name": "ScoreSdeVeScheduler", "sigma_max": 378.0, "num_train_timesteps": 2000}
    )
    assert schedule.steps == 2000
    assert [float(schedule.deviation[i]) for i in (0, -1)] == pytest.approx([0.01, 378.0])
    ratios = schedule.deviation[1:] / schedule.deviation[:-1]
    torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios))


def test_steps_are_evenly_spaced_and_end_at_the_least_noisy():
    schedule = NoiseSchedule.from_scheduler({})
    assert schedule.timesteps(50)[:2] == [980, 960]
    for count in (1, 7, 49, 50, 1000):
        steps = schedule.timesteps(count)
        assert len(set(steps)) == count
        assert steps == sorted(steps, reverse=True)
        assert steps[-1] == 0
    assert schedule.timesteps(10, below=300)[0] == 270
    for count, below in ((0, 5), (6, 5), (5, 1001)):
        with pytest.raises(ValueError, match=f"{count} steps below step {below} of 1000"):
            schedule.timesteps(count, below)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "PNDMScheduler"}, "the scheduler is a PNDMScheduler"),
        ({"beta_schedule": "steep"}, "beta_schedule is 'steep'"),
        ({"prediction_type": "flow"}, "prediction_type is 'flow'"),
        ({"beta_end": 1.5}, "the betas reach from 0.0001 to 1.5"),
        ({"num_train_timesteps": 0}, "num_train_timesteps is 0"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr is set"),
        ({"_class_name": "ScoreSdeVeScheduler", "sigma_min": 0.0}, "the noise goes from 0.0"),
    ],
)
def test_refusals_say_what_was_expected(config, message):
    with pytest.raises(ValueError, match=message):
        NoiseSchedule.from_scheduler(config)
