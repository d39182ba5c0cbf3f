"""PatchDenoiser: predicts the noise in patches of volumes, which it sees with the whole volume and their places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffnr_lightning.priors.denoisers.noise_schedule import NoiseSchedule, Prediction
from diffnr_lightning.priors.denoisers.preconditioning import preconditioned
from diffnr_lightning.priors.slicefixers.unet_levels import through_levels
from diffnr_lightning.volume_patches import patch_coordinates

GROUPS = 8


class ResidualBlock(nn.Module):
    """Two convolutions of 3^3 beside the identity; the step scales and shifts between them.

    Args:
        width: channels in and out, a multiple of 8.
        embedding: length of the vector that says the step.
    """

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(GROUPS, width)
        self.conv_in = nn.Conv3d(width, width, 3, padding=1)
        self.step = nn.Linear(embedding, 2 * width)
        self.norm_out = nn.GroupNorm(GROUPS, width)
        self.conv_out = nn.Conv3d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return (N, width, D, H, W) of x (N, width, D, H, W) and the embedding (N, E)."""
        scale, shift = self.step(F.silu(embedding))[:, :, None, None, None].chunk(2, dim=1)
        change = self.norm_out(self.conv_in(F.silu(self.norm_in(x))))
        return x + self.conv_out(F.silu(change * (1 + scale) + shift))


class PatchDenoiser(nn.Module):
    """Predict the noise in patches by a small 3D U-Net.

    Args:
        patch: edge of a patch in voxels; a quarter or an eighth of that of the volumes.
        widths: channels of the levels, finest first; each level halves the size. Multiples of 8.
        blocks: residual blocks on each side of each level.
        fold: edge in voxels of the cubes that are turned into channels before the network and back after it.
        embedding: length of the vector that says the step.
        prediction: what its output stands for.
        beta_schedule: of diffusers' `DDPMScheduler`.
        steps: of the schedule.
        scale: values for attenuation 0 and 1.
        voxels: mean and deviation of clean voxels on that scale, by which its input and output are scaled, see
            `Preconditioning`; None leaves both as they are.

    Attributes:
        channels: 1.
        dimensions: 3.
        gaps: 0.
        alone: False.
        schedule: what its steps mean, and what its output stands for.
        preconditioning: of input and output, or None.

    Raises:
        ValueError: widths that are no multiples of 8, or a patch that cannot be halved as often as there are levels.

    Source: B. Yang et al., "Local Patches Meet Global Context: Scalable 3D Diffusion Priors for Computed Tomography
        Reconstruction", arXiv 2512.18161: patch, whole volume on the patch's grid and three coordinates as channels.
        Deviations: small; patches are folded, levels joined by addition, no attention.
    """

    channels = 1
    dimensions = 3
    gaps = 0
    alone = False

    def __init__(
        self,
        patch: int = 32,
        widths: Sequence[int] = (32, 64, 128),
        blocks: int = 1,
        fold: int = 2,
        embedding: int = 128,
        prediction: Prediction = "v_prediction",
        beta_schedule: str = "linear",
        steps: int = 1000,
        scale: tuple[float, float] = (-1.0, 1.0),
        voxels: tuple[float, float] | None = None,
    ) -> None:
        from diffusers.models.embeddings import TimestepEmbedding, Timesteps

        super().__init__()
        widths = tuple(widths)
        if min(blocks, fold) < 1 or not widths or any(w < GROUPS or w % GROUPS for w in widths):
            raise ValueError(
                f"blocks is {blocks}, fold {fold} and widths {widths}; numbers of at least 1 and widths that are "
                f"multiples of {GROUPS} are expected."
            )
        multiple = fold * 2 ** (len(widths) - 1)
        if patch < multiple or patch % multiple:
            raise ValueError(f"patch is {patch}; a multiple of {multiple} is expected.")
        self.architecture = {
            "patch": patch,
            "widths": list(widths),
            "blocks": blocks,
            "fold": fold,
            "embedding": embedding,
            "prediction": prediction,
            "beta_schedule": beta_schedule,
            "steps": steps,
            "scale": list(scale),
            "voxels": None if voxels is None else list(voxels),
        }
        self.patch, self.fold, self.scale = patch, fold, tuple(scale)
        self.schedule = NoiseSchedule.from_scheduler(
            {
                "num_train_timesteps": steps,
                "beta_schedule": beta_schedule,
                "prediction_type": prediction,
            }
        )
        self.preconditioning = preconditioned(voxels, self.schedule)
        self.time = Timesteps(widths[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.embed = TimestepEmbedding(widths[0], embedding)
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.conv_in = nn.Conv3d(2 * fold**3 + 3, widths[0], 3, padding=1)
        self.down, self.up = (
            nn.ModuleList(
                nn.ModuleList(ResidualBlock(width, embedding) for _ in range(blocks))
                for width in widths
            )
            for _ in range(2)
        )
        self.shrink = nn.ModuleList(nn.Conv3d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.grow = nn.ModuleList(
            nn.ConvTranspose3d(coarse, fine, 2, stride=2) for fine, coarse in pairs
        )
        self.norm_out = nn.GroupNorm(GROUPS, widths[0])
        self.conv_out = nn.Conv3d(widths[0], fold**3, 3, padding=1)

    def forward(
        self,
        noisy: Tensor,
        step: Tensor | int,
        context: Tensor | None = None,
        coordinates: Tensor | None = None,
    ) -> Tensor:
        """Return the network's output, of which `schedule.prediction` says what it is.

        Args:
            noisy: (N, 1, P, P, P) patches, on the scale of the network.
            step: of the schedule, one or (N,).
            context: (N, 1, P, P, P) the whole noisy volume on the grid of a patch (`whole_in_patch`); None takes the
                patches for whole volumes.
            coordinates: (N, 3, P, P, P) places of the voxels (`patch_coordinates`); None takes the patches for whole
                volumes.

        Returns:
            (N, 1, P, P, P).

        Raises:
            ValueError: patches of another size than those that it was trained on.
        """
        expected = (1, self.patch, self.patch, self.patch)
        if noisy.shape[1:] != expected:
            raise ValueError(
                f"noisy has shape {tuple(noisy.shape)}; patches (N, {', '.join(map(str, expected))}) are expected."
            )
        if coordinates is None:
            first = torch.zeros(1, 3, dtype=torch.long, device=noisy.device)
            coordinates = patch_coordinates(first, expected[1:], self.patch)
        context = noisy if context is None else context
        steps = torch.as_tensor(step, device=noisy.device).long().expand(len(noisy))
        seen = [part.to(noisy).expand_as(noisy) for part in (noisy, context)]
        if self.preconditioning is not None:
            seen = [self.preconditioning.entering(part, steps, self.schedule) for part in seen]
        images = [_folded(part, self.fold) for part in seen]
        places = F.avg_pool3d(coordinates.to(noisy).expand(len(noisy), -1, -1, -1, -1), self.fold)
        x = through_levels(
            self.conv_in(torch.cat([*images, places], dim=1)),
            self.embed(self.time(steps).to(noisy)),
            down=self.down,
            shrink=self.shrink,
            up=self.up,
            grow=self.grow,
        )
        output = _unfolded(self.conv_out(F.silu(self.norm_out(x))), self.fold)
        if self.preconditioning is None:
            return output
        return self.preconditioning.leaving(output, noisy, steps, self.schedule)

    def predict(
        self, noisy: Tensor, step: Tensor | int, told: Mapping[str, Any] | None = None
    ) -> Tensor:
        """Return the noise in patches (N, 1, P, P, P), see `Denoiser.predict`; `context` and `coordinates` are told."""
        told = told or {}
        output = self(noisy, step, told.get("context"), told.get("coordinates"))
        return self.schedule.noise_of(output, noisy, step)

    def predict_bytes(self, patches: int, *_edges: int) -> int:
        """Bytes that so many patches take at the worst moment, beside the weights and themselves.

        That is the last residual block: the outputs of all levels on the way down, five tensors of the finest, and the
        inputs.
        """
        widths = self.architecture["widths"]
        kept = sum(width / 8**level for level, width in enumerate(widths))
        numbers = (kept + 5 * widths[0]) / self.fold**3 + 3
        return int(4 * patches * self.patch**3 * numbers)


def _folded(x: Tensor, fold: int) -> Tensor:
    """Turn cubes of voxels into channels: (N, 1, D, H, W) -> (N, fold^3, D / fold, H / fold, W / fold)."""
    count, _, depth, height, width = x.shape
    x = x.reshape(count, depth // fold, fold, height // fold, fold, width // fold, fold)
    return x.permute(0, 2, 4, 6, 1, 3, 5).flatten(1, 3)


def _unfolded(x: Tensor, fold: int) -> Tensor:
    """Undo `_folded`."""
    count, _, depth, height, width = x.shape
    x = x.reshape(count, fold, fold, fold, depth, height, width).permute(0, 4, 1, 5, 2, 6, 3)
    return x.reshape(count, 1, depth * fold, height * fold, width * fold)
