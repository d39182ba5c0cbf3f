from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from tiny_models import SD_TURBO_UNET, SD_TURBO_VAE, TEXT_WIDTH

from diffnr_lightning.priors.slicefixers.turbo_backbone import TurboBackbone, embed_text, load_turbo

KEYS = json.loads(
    (Path(__file__).parent / "slicefixer_checkpoint_keys.json").read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def full_size():
    """SD-Turbo's architecture without memory for its weights."""
    with torch.device("meta"):
        vae = AutoencoderKL(**SD_TURBO_VAE)
        unet = UNet2DConditionModel(**SD_TURBO_UNET)
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863
    assert sum(p.numel() for p in unet.parameters()) == 865_910_724
    return TurboBackbone(vae, unet, 0.0046601)


@pytest.fixture
def backbone(tiny_base):
    torch.manual_seed(0)
    return load_turbo(str(tiny_base))


@pytest.fixture
def images():
    return torch.rand(2, 3, 32, 24, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def context():
    return torch.randn(1, 77, TEXT_WIDTH, generator=torch.Generator().manual_seed(1))


def silenced(backbone):
    """Without what training adds: LoRA starts at zero, the skips nearly so."""
    with torch.no_grad():
        for number in range(1, 5):
            getattr(backbone.vae.decoder, f"skip_conv_{number}").base_layer.weight.zero_()
    return backbone


@pytest.mark.parametrize(("part", "count"), [("unet", 516), ("vae", 152)])
def test_trained_keys_and_shapes_of_the_full_size_are_those_of_released_checkpoints(
    full_size, part, count
):
    trained = {
        name.removeprefix(f"{part}."): list(parameter.shape)
        for name, parameter in full_size.trained().items()
        if name.startswith(f"{part}.")
    }
    assert len(trained) == count
    assert trained == KEYS[part]


def test_the_full_size_trains_9505160_numbers(full_size):
    assert sum(p.numel() for p in full_size.trained().values()) == 9_505_160


def test_lora_scales_are_alpha_8_over_the_rank(full_size):
    assert full_size.unet.conv_out.scaling == {"default": 1.0}
    assert full_size.vae.encoder.conv_in.scaling == {"vae_skip": 2.0}


def test_exactly_lora_conv_in_and_skips_are_trained(backbone):
    trainable = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert trainable == set(backbone.trained())
    assert "unet.conv_in.weight" in trainable and "unet.conv_in.bias" in trainable
    left = {n for n in trainable if "lora_" not in n and not n.startswith("unet.conv_in.")}
    assert left == {f"vae.decoder.skip_conv_{n}.base_layer.weight" for n in range(1, 5)}


def test_skips_start_near_zero(backbone):
    for number in range(1, 5):
        skip = getattr(backbone.vae.decoder, f"skip_conv_{number}").base_layer
        assert skip.bias is None
        assert torch.all(skip.weight == 1e-5)


def test_a_new_backbone_without_skips_encodes_and_decodes_as_the_vae(tiny_base, backbone, images):
    plain = AutoencoderKL.from_pretrained(tiny_base, subfolder="vae")
    with torch.no_grad():
        latents, skips = silenced(backbone).encode(images)
        wanted = plain.encode(images).latent_dist.mode() * 0.18215
        torch.testing.assert_close(latents, wanted)
        decoded = backbone.decode(latents, skips)
        torch.testing.assert_close(
            decoded, plain.decode(wanted / 0.18215).sample, atol=1e-4, rtol=1e-4
        )


def test_the_step_is_that_of_the_ddpm_scheduler(tiny_base, backbone, context):
    plain = UNet2DConditionModel.from_pretrained(tiny_base, subfolder="unet")
    scheduler = DDPMScheduler.from_pretrained(tiny_base, subfolder="scheduler")
    scheduler.set_timesteps(1)
    assert scheduler.timesteps.tolist() == [999]
    latents = torch.randn(2, 4, 4, 4)
    with torch.no_grad():
        noise = plain(latents, 999, encoder_hidden_states=context.expand(2, -1, -1)).sample
        wanted = scheduler.step(noise, 999, latents).prev_sample
        torch.testing.assert_close(backbone.denoise(latents, context), wanted, atol=1e-4, rtol=1e-4)


def test_the_step_weighs_as_published(backbone):
    assert backbone.alpha_bar == pytest.approx(0.0046601, abs=1e-7)
    latents = torch.randn(1, 4, 4, 4)

    class NoNoise(torch.nn.Module):
        def forward(self, sample, timestep, encoder_hidden_states):
            assert timestep == 999
            return type("Output", (), {"sample": torch.zeros_like(sample)})

    backbone.unet = NoNoise()
    denoised = backbone.denoise(latents, torch.zeros(1, 77, TEXT_WIDTH))
    torch.testing.assert_close(denoised, 14.6488 * latents, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_each_skip_carries_what_the_encoder_was_given(backbone, images, number):
    backbone = silenced(backbone)
    seen = {}
    block = backbone.vae.encoder.down_blocks[4 - number]
    block.register_forward_pre_hook(lambda module, given: seen.update(given=given[0]))
    skip = getattr(backbone.vae.decoder, f"skip_conv_{number}")
    skip.register_forward_pre_hook(lambda module, given: seen.update(carried=given[0]))
    with torch.no_grad():
        latents, skips = backbone.encode(images)
        without = backbone.decode(latents, skips)
        skip.base_layer.weight.fill_(0.1)
        carried = backbone.decode(latents, skips)
    assert torch.equal(seen["given"], seen["carried"])
    assert not torch.allclose(without, carried)


def test_the_mean_latent_repeats_and_the_sampled_one_does_not(tiny_base, images):
    for latent, repeats in (("mean", True), ("sample", False)):
        backbone = load_turbo(str(tiny_base), latent=latent)
        with torch.no_grad():
            first, again = (backbone.encode(images)[0] for _ in range(2))
        assert torch.equal(first, again) is repeats


def test_the_sampled_latent_is_that_of_the_vae(tiny_base, images):
    plain = AutoencoderKL.from_pretrained(tiny_base, subfolder="vae")
    backbone = load_turbo(str(tiny_base), latent="sample")
    with torch.no_grad():
        torch.manual_seed(5)
        drawn = backbone.encode(images)[0]
        torch.manual_seed(5)
        wanted = plain.encode(images).latent_dist.sample() * 0.18215
    torch.testing.assert_close(drawn, wanted)


def test_gradient_checkpointing_changes_no_gradient(tiny_base, images, context):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        backbone = load_turbo(str(tiny_base), gradient_checkpointing=checkpointing)
        backbone(images, context).square().mean().backward()
        gradients.append([p.grad for p in backbone.trained().values()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_casting_leaves_what_is_trained_in_float32(backbone):
    backbone.cast_frozen(torch.bfloat16)
    for parameter in backbone.parameters():
        wanted = torch.float32 if parameter.requires_grad else torch.bfloat16
        assert parameter.dtype == wanted


def test_one_tile_over_all_is_the_whole(backbone, images, context):
    with torch.no_grad():
        torch.testing.assert_close(
            backbone(images, context, tile=32), backbone(images, context), atol=1e-4, rtol=1e-4
        )


def test_tiles_cover_the_image(backbone, context):
    images = torch.rand(1, 3, 48, 64)
    with torch.no_grad():
        tiled = backbone(images, context, tile=32)
    assert tiled.shape == images.shape
    assert torch.isfinite(tiled).all()


def test_prompts_are_embedded_with_77_tokens(tiny_base):
    chest, empty = (embed_text(text, str(tiny_base)) for text in ("chest CT", ""))
    assert chest.shape == empty.shape == (1, 77, TEXT_WIDTH)
    assert not torch.equal(chest, empty)
    assert torch.equal(embed_text("Chest CT", str(tiny_base)), chest)  # case is dropped
    assert embed_text("ct " * 200, str(tiny_base)).shape == (1, 77, TEXT_WIDTH)  # cut


def test_ranks_below_one_are_refused(tiny_base):
    with pytest.raises(ValueError, match="rank_unet is 0 and rank_vae 4"):
        load_turbo(str(tiny_base), rank_unet=0)
