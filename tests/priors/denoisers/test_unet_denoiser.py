import json
import shutil

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from diffnr_lightning.priors import CompactDenoiser, UNetDenoiser, load_denoiser, save_denoiser
from diffnr_lightning.priors.denoisers.denoiser import Denoiser
from diffnr_lightning.priors.denoisers.denoiser_folders import read_metadata

TINY = {"channels": 3, "widths": (8, 16), "fold": 2}


def noisy(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A pipeline in DM4CT's layout: one channel, attention on the coarsest level, random weights."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    folder = tmp_path_factory.mktemp("dm4ct") / "pixel_diffusion"
    DDPMPipeline(unet, DDPMScheduler(num_train_timesteps=1000)).save_pretrained(folder)
    return folder


def test_any_size_and_single_slices_are_served():
    torch.manual_seed(0)
    denoiser = CompactDenoiser(**TINY, coordinates=True)
    assert isinstance(denoiser, Denoiser)
    gaps = {"gap": torch.tensor([1, 3])}
    found = denoiser.predict(noisy(2, 3, 13, 18), torch.tensor([10, 900]), gaps)
    assert found.shape == (2, 3, 13, 18)
    assert denoiser.predict(noisy(2, 1, 8, 8), 500).shape == (2, 1, 8, 8)
    # What is told matters.
    images, places = noisy(1, 3, 8, 8), torch.zeros(1, 2, 8, 8)
    results = [denoiser.predict(images, 500), denoiser.predict(images, 500, {"gap": 3})]
    results += [
        denoiser.predict(images, 400),
        denoiser.predict(images, 500, {"coordinates": places}),
    ]
    assert all(not torch.equal(results[0], other) for other in results[1:])
    with pytest.raises(ValueError, match="gap is 4; whole numbers from 0 to 3"):
        denoiser.predict(images, 500, {"gap": 4})
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\) is expected"):
        denoiser(noisy(2, 2, 8, 8), 500)


def test_a_saved_denoiser_predicts_the_same_and_diffusers_reads_it(tmp_path):
    torch.manual_seed(0)
    denoiser = CompactDenoiser(**TINY)
    for weight in denoiser.parameters():
        weight.data = weight.data.half().float()
    save_denoiser(tmp_path / "one", denoiser, {"iterations": 3})
    again = load_denoiser(tmp_path / "one")
    images = noisy(1, 3, 16, 16)
    torch.testing.assert_close(again.predict(images, 7), denoiser.predict(images, 7))
    assert read_metadata(tmp_path / "one") == {"iterations": 3}
    assert again.schedule.prediction == "v_prediction"
    theirs = DDPMPipeline.from_pretrained(tmp_path / "one")
    assert theirs.unet.config.in_channels == 12
    assert theirs.scheduler.config.prediction_type == "v_prediction"
    denoiser.unet.conv_in.weight.data[0] = 1e6
    with pytest.raises(ValueError, match=r"conv_in.weight .* not finite in float16"):
        save_denoiser(tmp_path / "two", denoiser)
    assert not (tmp_path / "two").exists()


def test_a_pipeline_of_dm4ct_loads_as_it_is(pipeline):
    denoiser = load_denoiser(pipeline)
    assert (denoiser.channels, denoiser.scale, denoiser.schedule.prediction) == (
        1,
        (-1, 1),
        "epsilon",
    )
    images = noisy(2, 1, 32, 32)
    unet = UNet2DModel.from_pretrained(pipeline, subfolder="unet")
    torch.testing.assert_close(denoiser.predict(images, 250), unet(images, 250).sample)
    alpha_bar = denoiser.schedule.alpha_bar.float()
    torch.testing.assert_close(alpha_bar, DDPMScheduler().alphas_cumprod)


def change(path, **changed):
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


SPOILED = {
    "nothing": (lambda f: shutil.rmtree(f), "is no folder and no denoiser of the package"),
    "no scheduler": (lambda f: shutil.rmtree(f / "scheduler"), "has no scheduler"),
    "latent": (lambda f: (f / "vqvae").mkdir(), "is a latent prior"),
    "text": (
        lambda f: change(f / "unet" / "config.json", _class_name="UNet2DConditionModel"),
        "is a UNet2DConditionModel",
    ),
    "other widths": (
        lambda f: change(f / "unet" / "config.json", block_out_channels=[32, 64]),
        "do not have the names and shapes",
    ),
    "no number": (
        lambda f: change(f / "unet" / "config.json", block_out_channels="wide"),
        "no usable denoiser",
    ),
    "other scheduler": (
        lambda f: change(f / "scheduler" / "scheduler_config.json", _class_name="PNDM"),
        "the scheduler is a PNDM",
    ),
    "damaged json": (lambda f: (f / "unet" / "config.json").write_text("{"), "cannot be read"),
    "pickle": (
        lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").rename(
            f / "unet" / "diffusion_pytorch_model.bin"
        ),
        "is a pickle, which may run code",
    ),
    "truncated": (
        lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"1"),
        "is damaged",
    ),
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_a_bad_folder_is_refused_in_one_sentence(spoiled, pipeline, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(pipeline, folder)
    spoil, words = SPOILED[spoiled]
    spoil(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        load_denoiser(folder)
    assert "\n" not in str(error.value)


def test_networks_that_do_not_fit_are_refused():
    unet = UNet2DModel(
        in_channels=3,
        out_channels=2,
        block_out_channels=(32,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    with pytest.raises(ValueError, match="3 input and 2 output channels"):
        UNetDenoiser(unet)
    with pytest.raises(ValueError, match="multiples of 8"):
        CompactDenoiser(widths=(8, 12))
