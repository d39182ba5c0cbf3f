"""SliceFixer: the paper's prior, SD-Turbo finetuned to repair slices of CT in a single step."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffnr_lightning.priors.conditioning import Conditioning, prompt_of
from diffnr_lightning.priors.slicefixers.biplanar_features import RAD_DINO, BiplanarFeatures
from diffnr_lightning.priors.slicefixers.fusion_adapter import CrossAttnFusionAdapter
from diffnr_lightning.priors.slicefixers.memory import Load, Precision, refuse_too_large
from diffnr_lightning.priors.slicefixers.turbo_backbone import (
    FACTOR,
    SD_TURBO,
    Latent,
    embed_text,
    load_turbo,
)

Normalisation = Literal["global", "per_slice_minmax", "released"]
Orientation = Literal["zyx", "xyz"]

CHOICES = {
    "normalisation": get_args(Normalisation),
    "latent": get_args(Latent),
    "orientation": get_args(Orientation),
    "precision": get_args(Precision),
}


class SliceFixer(nn.Module):
    """SD-Turbo with LoRA, skips, a text prompt and biplanar conditioning, behind the `Prior` contract.

    What is trained (`trained_state`): LoRA on VAE and U-Net, the U-Net's first convolution, the
    skips, and the adapter that fuses the projections' features with the text. All else is frozen,
    and `requires_grad_` leaves it so.

    Attributes:
        context: 0, neighbouring slices are not seen.
        size: edge in pixels of the slices that the network takes.
        biplanar_size: edge in pixels of the projections that the encoder takes.

    Args:
        base: SD-Turbo, its name on the Hugging Face hub or a folder in the layout of diffusers.
        encoder: RAD-DINO, name on the hub or folder; not read where biplanar is off.
        encoder_revision: commit at the hub; None takes the pinned one of `microsoft/rad-dino`.
        organ: whose slices these are, see `PROMPTS`.
        prompt: text instead of the organ's sentence.
        size: edge in pixels at which slices are repaired, a multiple of 8.
        rank_unet: of the U-Net's LoRA.
        rank_vae: of the VAE's LoRA.
        biplanar: whether two projections condition the repair.
        text: whether the prompt does; without, it is empty.
        normalisation: how slices are normalised. `global` leaves them as they are; `per_slice_minmax`
            stretches each to [0, 1] and undoes that afterwards; `released` stretches and, as the
            released code does, never undoes it, so that contrast changes from slice to slice.
        signed_input: whether the network takes [-1, 1] rather than [0, 1].
        orientation: order of the axes of the volumes whose slices the network has learned. Slices come
            and go as those of (Z, Y, X) volumes; of `xyz`, the authors', rows and columns are
            exchanged, in every plane: rows of their axial slices follow x. Projections are the same
            images in both, their first row at the top (+z).
        latent: `mean` or `sample`, see `TurboBackbone`.
        precision: of the frozen weights and of the computation; what is trained stays float32.
        gradient_checkpointing: compute blocks again in the backward pass rather than keep them.
        channels_last: layout of convolutions, faster on recent GPUs.
        compile: compile the backbone with torch.compile at its first use.
        tile: edge in pixels of the tiles that the VAE works on when it repairs; slower, for little
            memory, and a little different from the whole (see `TurboBackbone.forward`). None
            works on whole slices; training always does.

    Raises:
        ImportError: transformers or peft is not installed.
        FileNotFoundError: SD-Turbo or RAD-DINO is neither in its folder nor to be had from the hub.
        ValueError: an organ without a prompt, an unknown option, or a size that does not fit.

    Source: DiffNR, SliceFixer (ranks 8 and 4, 512 pixels, the prompt, biplanar cross-attention);
        pix2pix-turbo for what the paper leaves open. Deviations: latents are not drawn, values are
        not rounded to 8 bits, and the output is clipped after the mean of its three channels, in `repair` alone and
        not before the losses.
    """

    context: int = 0
    residual: bool = False
    biplanar_size: int = 518

    def __init__(
        self,
        base: str = SD_TURBO,
        encoder: str = RAD_DINO,
        encoder_revision: str | None = None,
        *,
        organ: str = "chest",
        prompt: str | None = None,
        size: int = 512,
        rank_unet: int = 8,
        rank_vae: int = 4,
        biplanar: bool = True,
        text: bool = True,
        normalisation: Normalisation = "global",
        signed_input: bool = False,
        orientation: Orientation = "zyx",
        latent: Latent = "mean",
        precision: Precision = "float32",
        gradient_checkpointing: bool = False,
        channels_last: bool = False,
        compile: bool = False,
        tile: int | None = None,
    ) -> None:
        super().__init__()
        sentence = prompt_of(organ) if prompt is None else prompt
        _refuse_unknown(
            normalisation=normalisation,
            orientation=orientation,
            latent=latent,
            precision=precision,
        )
        _refuse_sizes(size, tile)
        self.architecture = {
            "base": str(base),
            "encoder": str(encoder),
            "encoder_revision": encoder_revision,
            "organ": organ,
            "prompt": prompt,
            "size": size,
            "rank_unet": rank_unet,
            "rank_vae": rank_vae,
            "biplanar": biplanar,
            "text": text,
            "normalisation": normalisation,
            "signed_input": signed_input,
            "orientation": orientation,
            "latent": latent,
        }
        self.size: int | None = size
        self.normalisation = normalisation
        self.signed_input = signed_input
        self.orientation = orientation
        self.precision: Precision = precision
        self.gradient_checkpointing = gradient_checkpointing
        self.channels_last = channels_last
        self.tile = tile
        self._read_conditioning(
            str(base),
            sentence if text else "",
            str(encoder) if biplanar else None,
            encoder_revision,
        )
        self.backbone = load_turbo(
            str(base),
            rank_unet=rank_unet,
            rank_vae=rank_vae,
            latent=latent,
            gradient_checkpointing=gradient_checkpointing,
        )
        self.backbone.cast_frozen(getattr(torch, precision))
        if channels_last:
            self.backbone.to(memory_format=torch.channels_last)
        if compile:
            self.backbone.compile()
        self._features: tuple[Tensor, Tensor] | None = None
        self._fitting: set[tuple] = set()
        self.requires_grad_(True)

    def _read_conditioning(
        self, base: str, sentence: str, encoder: str | None, revision: str | None
    ) -> None:
        """Read what conditions the backbone: the embedded sentence, and the encoder of projections with its adapter.

        Args:
            base: folder or name of SD-Turbo, whose text encoder embeds the sentence.
            sentence: of the prompt.
            encoder: folder or name of RAD-DINO; None leaves the projections out.
            revision: commit of it at the hub.
        """
        self.text: Tensor
        self.register_buffer("text", embed_text(sentence, base), persistent=False)
        self.encoder = None
        self.fusion_adapter = None
        if encoder is None:
            return
        self.encoder = BiplanarFeatures(encoder, revision)
        self.biplanar_size = self.encoder.size
        self.fusion_adapter = CrossAttnFusionAdapter(self.text.shape[-1], self.encoder.width)

    @property
    def projection_encoder(self) -> BiplanarFeatures | None:
        """The frozen encoder whose features may stand for projections; None where they are off."""
        return self.encoder

    @property
    def feature_width(self) -> int | None:
        """Length of the features that may stand for projections; None where they are off."""
        return None if self.encoder is None else self.encoder.width

    def trained(self) -> dict[str, nn.Parameter]:
        """Parameters that training may change, by their names in checkpoints."""
        parameters = dict(self.backbone.trained())
        if self.fusion_adapter is not None:
            for name, parameter in self.fusion_adapter.named_parameters():
                parameters[f"fusion_adapter.{name}"] = parameter
        return parameters

    def trained_state(self) -> dict[str, Tensor]:
        """What a checkpoint holds: everything trained, `unet.`, `vae.` and `fusion_adapter.`."""
        return {name: parameter.detach() for name, parameter in self.trained().items()}

    @torch.no_grad()
    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Take up what `trained_state` gave, all of it and nothing else.

        Raises:
            ValueError: a name is missing or unknown, or a tensor has another shape.
        """
        parameters = self.trained()
        shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        given = {name: tuple(tensor.shape) for name, tensor in state.items()}
        wrong = sorted(shapes.keys() ^ given.keys()) or sorted(
            name for name in shapes if shapes[name] != given[name]
        )
        if wrong:
            raise ValueError(
                f"{wrong[0]} has shape {given.get(wrong[0])} in the file and "
                f"{shapes.get(wrong[0])} in the network ({len(wrong)} do not agree)"
            )
        for name, parameter in parameters.items():
            parameter.copy_(state[name])

    def requires_grad_(self, requires_grad: bool = True) -> SliceFixer:
        """Let all that is ever trained be trained, or nothing; the rest stays frozen."""
        super().requires_grad_(False)
        for parameter in self.trained().values():
            parameter.requires_grad_(requires_grad)
        return self

    def forward(self, slices: Tensor, conditioning: Conditioning) -> Tensor:
        """Repaired slices, not clipped; differentiable.

        Args:
            slices: (N, 1, H, W) in [0, 1], any H and W (padded to multiples of 8 inside).
            conditioning: for the N slices; plane, position and views are not looked at.

        Returns:
            (N, H, W), float32.

        Raises:
            ValueError: another number of channels, or more than the memory holds.
        """
        if slices.ndim != 4 or slices.shape[1] != 1:
            raise ValueError(
                f"slices has shape {tuple(slices.shape)}; the SliceFixer expects (N, 1, H, W): it "
                "sees no neighbouring slices."
            )
        self._refuse_too_large(slices)
        slices = self._turned(slices)
        height, width = slices.shape[-2:]
        inputs, low, span = self._normalised(slices.float())
        padding = (0, -width % FACTOR, 0, -height % FACTOR)
        images = F.pad(inputs, padding, mode="replicate").expand(-1, 3, -1, -1)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        context = self._context_of(conditioning)
        with self._autocast(slices.device):
            repaired = self.backbone(
                images.contiguous(memory_format=layout),
                context,
                tile=None if torch.is_grad_enabled() else self.tile,
            )
        unit = (repaired.mean(dim=1) + 1) / 2
        return self._turned(low + span * unit[:, :height, :width])

    @torch.no_grad()
    def repair(self, slices: Tensor, conditioning: Conditioning) -> Tensor:
        """Repaired slices in [0, 1]; see `Prior.repair`."""
        return self(slices, conditioning).clamp(0, 1)

    def repair_bytes(self, slices: int, height: int, width: int) -> int:
        """Bytes that so many slices take at the worst moment, beside the weights; see `priors.slicefixers.memory`."""
        return self._load(slices, height, width, self.precision != "float32").counted_bytes()

    def _turned(self, images: Tensor) -> Tensor:
        """Images (..., H, W) from our orientation to the network's, or back."""
        return images.mT if self.orientation == "xyz" else images

    def _normalised(self, slices: Tensor) -> tuple[Tensor, Tensor | float, Tensor | float]:
        """Slices as the network takes them, and offset and factor that take its output back."""
        low, span = 0.0, 1.0
        inputs = slices
        if self.normalisation != "global":
            least, most = slices.amin(dim=(2, 3)), slices.amax(dim=(2, 3))
            # A constant slice has nothing to stretch.
            stretch = torch.where(most > least, most - least, 1.0)
            inputs = (slices - least[..., None, None]) / stretch[..., None, None]
            if self.normalisation == "per_slice_minmax":
                low, span = least[..., None], stretch[..., None]
        return (2 * inputs - 1 if self.signed_input else inputs), low, span

    def _autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        # float32 leaves an autocast of the Trainer in force.
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(device.type, getattr(torch, self.precision))

    def _context_of(self, conditioning: Conditioning) -> Tensor:
        """Context of the U-Net's cross-attention: (1 or N, L, D)."""
        if self.fusion_adapter is None:
            return self.text
        features = self._features_of(conditioning.biplanar)
        # Text alone, as the released code does, where no projections are known.
        known = conditioning.biplanar.flatten(1).any(dim=1)
        return torch.where(
            known[:, None, None], self.fusion_adapter(self.text, features), self.text
        )

    def _features_of(self, biplanar: Tensor) -> Tensor:
        """(1 or N, 2, F) of projections; those shared by all slices of a scan are kept."""
        if biplanar.ndim == 3:
            if biplanar.shape[1:] != (2, self.encoder.width):
                raise ValueError(
                    f"biplanar has shape {tuple(biplanar.shape)}; expected features (N, 2, "
                    f"{self.encoder.width}) or projections (N, 2, h, w)."
                )
            return biplanar.float()
        if len(biplanar) > 1:
            return self.encoder(biplanar)
        if self._features is not None:
            seen, features = self._features
            if seen.device == biplanar.device and torch.equal(seen, biplanar):
                return features
        self._features = (biplanar.detach().clone(), self.encoder(biplanar))
        return self._features[1]

    def _refuse_too_large(self, slices: Tensor) -> None:
        training = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        # The autocast of a Trainer counts as half precision too.
        half = torch.is_autocast_enabled(slices.device.type) or self.precision != "float32"
        key = (tuple(slices.shape), training, half, slices.device)
        if key in self._fitting:
            return
        count, _, height, width = slices.shape
        refuse_too_large(self._load(count, height, width, half, training), slices.device)
        self._fitting.add(key)

    def _load(
        self, slices: int, height: int, width: int, half: bool, training: bool = False
    ) -> Load:
        return Load(
            batch=slices,
            pixels=height * width,
            training=training,
            precision="bfloat16" if half else "float32",
            gradient_checkpointing=self.gradient_checkpointing,
            tile=self.tile,
            width=self.backbone.vae.config.block_out_channels[0],
        )


def _refuse_sizes(size: int, tile: int | None) -> None:
    if size < FACTOR or size % FACTOR:
        raise ValueError(f"size is {size}; expected a positive multiple of {FACTOR}.")
    if tile is not None and (tile < 16 or tile % 16):
        raise ValueError(f"tile is {tile}; expected a positive multiple of 16, or null.")


def _refuse_unknown(**options: str) -> None:
    for name, value in options.items():
        if value not in CHOICES[name]:
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(CHOICES[name])}.")
