"""TurboBackbone: SD-Turbo made into a network that repairs images in a single step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffnr_lightning.priors.pretrained import load_pretrained, load_weights, optional_package
from diffnr_lightning.priors.slicefixers.tiles import blend_tiles

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

SD_TURBO = "stabilityai/sd-turbo"
"""The base model of the paper, by its name on the Hugging Face hub."""

TIMESTEP = 999
"""The single step: the last of the schedule, as in pix2pix-turbo and the released DiffNR."""

LORA_ALPHA = 8
"""peft's default, which the released code leaves: the scales are alpha / rank, 1.0 and 2.0."""

SKIP_START = 1e-5
"""First value of all weights of the skips; not quite zero, as in pix2pix-turbo."""

UNET_ADAPTER = "default"
VAE_ADAPTER = "vae_skip"
UNET_TARGETS = (
    "to_k",
    "to_q",
    "to_v",
    "to_out.0",
    "conv",
    "conv1",
    "conv2",
    "conv_shortcut",
    "conv_out",
    "proj_in",
    "proj_out",
    "ff.net.2",
    "ff.net.0.proj",
)
VAE_TARGETS = (
    "conv1",
    "conv2",
    "conv_in",
    "conv_shortcut",
    "conv",
    "conv_out",
    "skip_conv_1",
    "skip_conv_2",
    "skip_conv_3",
    "skip_conv_4",
    "to_k",
    "to_q",
    "to_v",
    "to_out.0",
)
"""Layers that are given LoRA, and the adapters' names: part of the released checkpoint's keys."""

FACTOR = 8
"""Pixels along an edge of a latent."""

Latent = Literal["mean", "sample"]


class TurboBackbone(nn.Module):
    """VAE with skips around a U-Net that takes one denoising step; LoRA on both.

    The encoder's four blocks hand what they are given to the decoder's four, in reverse order,
    through convolutions of one pixel. Trained are all LoRA, the U-Net's first convolution and the
    skips; the rest is frozen. What is trained stays in float32 whatever the frozen part is cast to.

    Args:
        vae: of SD-Turbo; gains skips and LoRA.
        unet: of SD-Turbo; gains LoRA.
        alpha_bar: product of (1 - beta) up to `TIMESTEP`.
        rank_unet: of the U-Net's LoRA.
        rank_vae: of the VAE's LoRA.
        latent: `mean` encodes to the most likely latent, so that a slice is always repaired alike;
            `sample` draws it, as pix2pix-turbo does.
        gradient_checkpointing: compute blocks again in the backward pass rather than keep them.

    Raises:
        ImportError: peft is not installed.
        ValueError: ranks below one.

    Source: pix2pix-turbo (Parmar et al., One-step image translation with text-to-image models,
        2024) and the released DiffNR, which follows it.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        alpha_bar: float,
        *,
        rank_unet: int = 8,
        rank_vae: int = 4,
        latent: Latent = "mean",
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        peft = optional_package("peft")
        if min(rank_unet, rank_vae) < 1:
            raise ValueError(
                f"rank_unet is {rank_unet} and rank_vae {rank_vae}; expected ranks of at least 1."
            )
        self.alpha_bar = alpha_bar
        self.latent = latent
        self.gradient_checkpointing = gradient_checkpointing
        widths = vae.config.block_out_channels
        inner = (widths[0], *widths[:-1])[::-1]
        outer = (widths[-1], *widths[:0:-1])
        for number, (given, taken) in enumerate(zip(inner, outer, strict=True), start=1):
            skip = nn.Conv2d(given, taken, 1, bias=False, device=vae.device)
            nn.init.constant_(skip.weight, SKIP_START)
            setattr(vae.decoder, f"skip_conv_{number}", skip)
        for network, rank, targets, name in (
            (vae, rank_vae, VAE_TARGETS, VAE_ADAPTER),
            (unet, rank_unet, UNET_TARGETS, UNET_ADAPTER),
        ):
            lora = peft.LoraConfig(
                r=rank,
                lora_alpha=LORA_ALPHA,
                init_lora_weights="gaussian",
                target_modules=list(targets),
            )
            network.add_adapter(lora, adapter_name=name)
        if gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        self.vae = vae
        self.unet = unet
        self.requires_grad_(False)
        for parameter in self.trained().values():
            parameter.requires_grad_(True)

    def trained(self) -> dict[str, nn.Parameter]:
        """Parameters that training may change: LoRA, the U-Net's conv_in and the skips."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if "lora_" in name or ".skip_conv_" in name or name.startswith("unet.conv_in.")
        }

    def blocks(self) -> list[nn.Module]:
        """The large parts that are called one after another, between them nearly all weights."""
        encoder, unet, decoder = self.vae.encoder, self.unet, self.vae.decoder
        return [
            *encoder.down_blocks,
            encoder.mid_block,
            *unet.down_blocks,
            unet.mid_block,
            *unet.up_blocks,
            decoder.mid_block,
            *decoder.up_blocks,
        ]

    def cast_frozen(self, dtype: torch.dtype) -> None:
        """Cast all that is never trained."""
        trained = set(map(id, self.trained().values()))
        for parameter in self.parameters():
            if id(parameter) not in trained:
                parameter.data = parameter.data.to(dtype)

    def forward(self, images: Tensor, context: Tensor, tile: int | None = None) -> Tensor:
        """Repaired images, not clipped.

        Args:
            images: (N, 3, H, W) in [0, 1] (pix2pix-turbo's convention for its input); H and W
                multiples of 8.
            context: (1 or N, L, D), context of the U-Net's cross-attention.
            tile: edge in pixels, a multiple of 16, of the overlapping squares that the VAE works on
                one by one; None works on whole images. Each square is normalised and attends by
                itself, so that results differ a little from those of the whole; its features are
                computed twice, before and after the U-Net, which always sees the whole. Meant for
                inference.

        Returns:
            (N, 3, H, W), float32, in [-1, 1] for an image in range.
        """
        if tile is None:
            latents, skips = self.encode(images)
            return self.decode(self.denoise(latents, context), skips).float()
        latents = blend_tiles(
            lambda place: self.encode(images[place.pixels])[0].float(),
            images.shape[-2:],
            tile,
            FACTOR,
        )
        denoised = self.denoise(latents, context)
        return blend_tiles(
            lambda place: self.decode(
                denoised[place.latents], self.encode(images[place.pixels])[1]
            ).float(),
            images.shape[-2:],
            tile,
        )

    def encode(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Latents (N, 4, H / 8, W / 8), scaled as the U-Net expects, and what the skips carry."""
        encoder = self.vae.encoder
        x = encoder.conv_in(images)
        skips = []
        for block in encoder.down_blocks:
            skips.append(x)
            x = self._through(block, x)
        x = self._through(encoder.mid_block, x)
        x = encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(x)))
        mean, log_variance = self.vae.quant_conv(x).chunk(2, dim=1)
        if self.latent == "sample":
            # Clamped as the VAE's own posterior is.
            deviation = torch.exp(0.5 * log_variance.clamp(-30, 20))
            mean = mean + deviation * torch.randn(mean.shape, device=mean.device, dtype=mean.dtype)
        return mean * self.vae.config.scaling_factor, skips

    def denoise(self, latents: Tensor, context: Tensor) -> Tensor:
        """The clean latents that the U-Net takes noisy ones to come from, in float32.

        Both terms are some fifteen times as large as their difference, which half precision would
        not leave much of.

        Source: the update of DDPM with a single step from `TIMESTEP` to the end,
            x0 = (z - sqrt(1 - abar) eps) / sqrt(abar), abar = 0.00466.
        """
        context = context.expand(len(latents), -1, -1)
        noise = self.unet(latents, TIMESTEP, encoder_hidden_states=context).sample
        # Autocast leaves float32 sums and products as they are.
        removed = math.sqrt(1 - self.alpha_bar) * noise.float()
        return (latents.float() - removed) / math.sqrt(self.alpha_bar)

    def decode(self, latents: Tensor, skips: list[Tensor]) -> Tensor:
        """Images (N, 3, H, W) from clean latents and what the encoder's blocks were given."""
        decoder = self.vae.decoder
        x = self.vae.post_quant_conv(latents / self.vae.config.scaling_factor)
        x = self._through(decoder.mid_block, decoder.conv_in(x))
        pairs = zip(decoder.up_blocks, reversed(skips), strict=True)
        for number, (block, skip) in enumerate(pairs, start=1):
            carried = getattr(decoder, f"skip_conv_{number}")(skip)
            x = self._through(block, x + carried)
        return decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(x)))

    def _through(self, block: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, use_reentrant=False)
        return block(x)


def load_turbo(base: str = SD_TURBO, **options: Any) -> TurboBackbone:
    """Build a backbone from the VAE, U-Net and scheduler of SD-Turbo.

    Args:
        base: name on the Hugging Face hub, or a folder in the layout of diffusers.
        **options: of `TurboBackbone`.

    Raises:
        ImportError: peft is not installed.
        FileNotFoundError: the base model is neither in the folder nor to be had from the hub.
        ValueError: damaged files, or a model that does not predict noise.
    """
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

    named = (base, "base", SD_TURBO)
    scheduler = load_pretrained(DDPMScheduler.from_pretrained, *named, subfolder="scheduler")
    if scheduler.config.prediction_type != "epsilon":
        raise ValueError(
            f"base {base!r} predicts {scheduler.config.prediction_type!r}; expected a model that "
            f"predicts noise ('epsilon'), as {SD_TURBO} does."
        )
    vae = load_weights(AutoencoderKL.from_pretrained, *named, subfolder="vae")
    unet = load_weights(UNet2DConditionModel.from_pretrained, *named, subfolder="unet")
    return TurboBackbone(vae, unet, float(scheduler.alphas_cumprod[TIMESTEP]), **options)


@torch.no_grad()
def embed_text(prompt: str, base: str = SD_TURBO) -> Tensor:
    """Embed a prompt with SD-Turbo's text encoder, which is not kept: (1, 77, 1024), float32.

    Raises:
        ImportError: transformers is not installed.
        FileNotFoundError: the base model is neither in the folder nor to be had from the hub.
        ValueError: damaged files, or a tokenizer that is not that of the encoder.
    """
    transformers = optional_package("transformers")
    named = (base, "base", SD_TURBO)
    tokenizer = load_pretrained(
        transformers.CLIPTokenizer.from_pretrained, *named, subfolder="tokenizer"
    )
    encoder = load_weights(
        transformers.CLIPTextModel.from_pretrained, *named, subfolder="text_encoder"
    )
    # A tokenizer without its files is made up as an empty one, without a word.
    if len(tokenizer) != encoder.config.vocab_size:
        raise ValueError(
            f"tokenizer of base {base!r} has {len(tokenizer)} words and its text_encoder "
            f"{encoder.config.vocab_size}; get the model anew with `hf download {SD_TURBO} "
            "--local-dir FOLDER` and give base=FOLDER."
        )
    tokens = tokenizer(
        prompt,
        padding="max_length",
        max_length=encoder.config.max_position_embeddings,
        truncation=True,
        return_tensors="pt",
    )
    return encoder(tokens.input_ids)[0].float()
