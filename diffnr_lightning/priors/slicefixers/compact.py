"""CompactSliceFixer: the small SliceFixer that is shipped with the package and runs on a CPU.

One forward pass repairs a slice. The slice and its neighbours are folded by pixel-unshuffling to
half the size, pass a U-Net of diffusers' residual blocks, and come out as a correction that is
added to the slice. The blocks are modulated (scale and shift after the second normalisation) by an
embedding of the biplanar projections, the plane and position of the slice, and the number of views.
If it is wanted, the backprojected residual of all projections enters beside the slices: a deviation
from the paper, whose prior sees two projections and not what the volume makes of them. So may the
noise of that residual, so that what it shows is believed as far as it can be.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffnr_lightning.planes import PLANES
from diffnr_lightning.priors.conditioning import BIPLANAR_SIZE, Conditioning
from diffnr_lightning.priors.slicefixers.unet_levels import through_levels

FOLD = 2
"""Edge of the pixel squares folded into channels: a quarter of the work at full resolution."""


class ConditioningEncoder(nn.Module):
    """Embeds a `Conditioning` in one vector per slice.

    Args:
        width: length of the embedding.
        biplanar: whether it takes the projections.
        noise: whether it takes the level of the noise.
    """

    def __init__(self, width: int, biplanar: bool = True, noise: bool = False) -> None:
        super().__init__()
        self.projections = self._projections(width) if biplanar else None
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.pi * 2.0 ** torch.arange(4), persistent=False)
        self.noise = noise
        numbers = len(PLANES) + 2 * len(self.frequencies) + (4 if noise else 2)
        self.place = nn.Linear(numbers, width)
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(width, width))

    @staticmethod
    def _projections(width: int) -> nn.Sequential:
        """From the pair (N, 2, h, w) to (N, width)."""
        layers: list[nn.Module] = []
        channels = (2, 16, 32, 48, 64)
        for inner, outer in zip(channels[:-1], channels[1:], strict=True):
            layers += [
                nn.Conv2d(inner, outer, 3, stride=2, padding=1),
                nn.GroupNorm(8, outer),
                nn.SiLU(),
            ]
        return nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels[-1], width)
        )

    def forward(self, conditioning: Conditioning) -> Tensor:
        """(N, width), or (1, width) where everything is shared by all slices."""
        angles = conditioning.position[:, None] * self.frequencies
        known = (conditioning.views > 0).to(angles.dtype)
        # 24 views, the middle of the sparse range, map to 0; each doubling adds a half.
        doublings = known * 0.5 * torch.log2(conditioning.views.clamp(min=1) / 24)
        told = [known, doublings]
        if self.noise:
            told += _noise_level(conditioning.noise)
        slices = max(len(field) for field in conditioning)
        place = torch.cat(
            [
                F.one_hot(conditioning.plane, len(PLANES)).to(angles.dtype).expand(slices, -1),
                torch.cat((torch.sin(angles), torch.cos(angles)), dim=1).expand(slices, -1),
                *(number[:, None].expand(slices, -1) for number in told),
            ],
            dim=1,
        )
        embedding = self.place(place)
        if self.projections is not None:
            # A pair shared by all slices is encoded once.
            embedding = self.projections(conditioning.biplanar) + embedding
        return self.mix(embedding)


def _noise_level(noise: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the noise (N, 1, H, W) of slices is known, and a quarter of its doublings from 0.02; (N,) each."""
    mean_square = noise.square().mean(dim=(1, 2, 3))
    known = (mean_square > 0).to(noise.dtype)
    return known, known * 0.125 * torch.log2(mean_square.clamp(min=1e-12) / 0.02**2)


class CompactSliceFixer(nn.Module):
    """U-Net that corrects slices in a single step; the identity before training.

    Args:
        context: neighbouring slices on each side that it sees.
        channels: widths of the levels, finest first; each level halves the size. Multiples of 8.
        blocks: residual blocks on each side of each level.
        embedding: length of the conditioning vector.
        residual: whether it takes the backprojected residual, which needs as many channels again.
        biplanar: whether it takes the biplanar pair of projections.
        noise: whether it takes the standard deviation of the residual's noise, one channel more.

    Raises:
        ValueError: channels that are not multiples of 8, or a negative context.
    """

    size: int | None = None
    biplanar_size: int = BIPLANAR_SIZE

    def __init__(
        self,
        context: int = 1,
        channels: Sequence[int] = (48, 96, 144, 192),
        blocks: int = 1,
        embedding: int = 128,
        residual: bool = False,
        biplanar: bool = True,
        noise: bool = False,
    ) -> None:
        from diffusers.models.resnet import Downsample2D, ResnetBlock2D

        super().__init__()
        channels = tuple(channels)
        if context < 0 or blocks < 1 or not channels or any(c < 8 or c % 8 for c in channels):
            raise ValueError(
                f"CompactSliceFixer got context={context}, blocks={blocks}, channels={channels}; "
                "expected context >= 0, blocks >= 1 and channels that are multiples of 8."
            )
        self.context = context
        self.residual = residual
        self.noise = noise
        self.architecture = {
            "context": context,
            "channels": list(channels),
            "blocks": blocks,
            "embedding": embedding,
            "residual": residual,
            "biplanar": biplanar,
            "noise": noise,
        }
        self.multiple = FOLD * 2 ** (len(channels) - 1)

        def stage(width: int) -> nn.ModuleList:
            return nn.ModuleList(
                ResnetBlock2D(
                    in_channels=width,
                    out_channels=width,
                    temb_channels=embedding,
                    groups=8,
                    eps=1e-5,
                    time_embedding_norm="scale_shift",
                )
                for _ in range(blocks)
            )

        steps = list(zip(channels[:-1], channels[1:], strict=True))
        self.encoder = ConditioningEncoder(embedding, biplanar, noise)
        inputs = (2 * context + 1) * (2 if residual else 1) + noise
        self.conv_in = nn.Conv2d(inputs * FOLD**2, channels[0], 3, padding=1)
        self.down = nn.ModuleList(stage(width) for width in channels)
        self.shrink = nn.ModuleList(
            Downsample2D(fine, use_conv=True, out_channels=coarse) for fine, coarse in steps
        )
        self.up = nn.ModuleList(stage(width) for width in channels)
        # A 2 x 2 transposed convolution acts on the coarse grid: a ninth of the work of
        # convolving 3 x 3 after the enlargement, which would be the most costly layer of all.
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in steps
        )
        self.norm_out = nn.GroupNorm(8, channels[0])
        self.conv_out = nn.Conv2d(channels[0], FOLD**2, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)
        self.to(memory_format=torch.channels_last)

    def forward(self, slices: Tensor, conditioning: Conditioning) -> Tensor:
        """Corrected centre slices, not clipped.

        Args:
            slices: (N, 2 context + 1, H, W) in [0, 1], any H and W.
            conditioning: for the N slices.

        Returns:
            (N, H, W).

        Raises:
            ValueError: another number of channels.
        """
        if slices.ndim != 4 or slices.shape[1] != 2 * self.context + 1:
            raise ValueError(
                f"slices has shape {tuple(slices.shape)}; this prior expects (N, "
                f"{2 * self.context + 1}, H, W): the slice and {self.context} neighbours each side."
            )
        height, width = slices.shape[-2:]
        x = through_levels(
            self._entering(slices, conditioning),
            self.encoder(conditioning),
            down=self.down,
            shrink=self.shrink,
            up=self.up,
            grow=self.grow,
        )
        correction = F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(x))), FOLD)
        return slices[:, self.context] + correction[:, 0, :height, :width]

    def _entering(self, slices: Tensor, conditioning: Conditioning) -> Tensor:
        """Features of all that the network sees, (N, C, H', W') of the finest level."""
        height, width = slices.shape[-2:]
        padding = (0, -width % self.multiple, 0, -height % self.multiple)
        inputs = [slices]
        if self.residual:
            inputs.append(conditioning.residual.expand_as(slices))
        if self.noise:
            # The root brings levels of a thousandth to a tenth nearer to each other.
            inputs.append(conditioning.noise.sqrt().expand_as(slices[:, :1]))
        x = F.pixel_unshuffle(F.pad(torch.cat(inputs, dim=1), padding, mode="replicate"), FOLD)
        return self.conv_in(x.contiguous(memory_format=torch.channels_last))

    def repair_bytes(self, slices: int, height: int, width: int) -> int:
        """Bytes that so many slices take at the worst moment, beside the weights and themselves.

        That is the last block: the outputs of all levels of the way down, what enters the block, and the three tensors
        of its second normalisation.
        """
        pixels = slices * (height + -height % self.multiple) * (width + -width % self.multiple)
        channels = self.architecture["channels"]
        kept = sum(width / 4**level for level, width in enumerate(channels))
        return int(4 * pixels * ((kept + 4 * channels[0]) / FOLD**2 + self.noise))

    def with_residual(self) -> CompactSliceFixer:
        """The same network with inputs for the residual, whose weights are zero before training."""
        return self._widened(residual=True)

    def with_noise(self) -> CompactSliceFixer:
        """The same network with inputs for the residual's noise, whose weights are zero before training."""
        return self._widened(noise=True)

    def _widened(self, **added: bool) -> CompactSliceFixer:
        """The same network with further inputs, whose weights are zero."""
        wide = type(self)(**{**self.architecture, **added})
        state, present = wide.state_dict(), self.state_dict()
        for name, tensor in present.items():
            if state[name].shape == tensor.shape:
                state[name] = tensor
        own = (2 * self.context + 1) * FOLD**2
        seen, filters = present["conv_in.weight"], torch.zeros_like(state["conv_in.weight"])
        filters[:, :own] = seen[:, :own]
        if self.residual:
            filters[:, own : 2 * own] = seen[:, own : 2 * own]
        if self.noise:
            filters[:, -(FOLD**2) :] = seen[:, -(FOLD**2) :]
        place, numbers = (
            present["encoder.place.weight"],
            torch.zeros_like(state["encoder.place.weight"]),
        )
        numbers[:, : place.shape[1]] = place
        wide.load_state_dict({**state, "conv_in.weight": filters, "encoder.place.weight": numbers})
        return wide

    @torch.inference_mode()
    def repair(self, slices: Tensor, conditioning: Conditioning) -> Tensor:
        """Repaired centre slices in [0, 1]; see `Prior.repair`."""
        return self(slices, conditioning).float().clamp(0, 1)
