"""UNetDenoiser: predicts the noise in slices, alone or in stacks, by a U-Net of diffusers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffnr_lightning.priors.denoisers.noise_schedule import NoiseSchedule, Prediction
from diffnr_lightning.priors.denoisers.preconditioning import preconditioned

if TYPE_CHECKING:
    from diffusers import UNet2DModel


def of_batch(numbers: Tensor | int, like: Tensor) -> Tensor:
    """Return one number, or one for each item of a batch, as (N,) int64 on the device of the batch."""
    return torch.as_tensor(numbers, device=like.device).long().expand(len(like))


class UNetDenoiser(nn.Module):
    """Predict the noise in slices, or in stacks of neighbouring ones, which are the channels of one image.

    Args:
        unet: `UNet2DModel` of diffusers. One whose output has twice the channels of its input predicts variances too,
            which are left aside.
        scheduler: config of the scheduler that it was trained with, with its `prediction_type`.
        fold: edge in pixels of the squares that are turned into channels before the network and back after it.
        coordinates: whether the places of pixels are two further channels of its input.
        scale: values for attenuation 0 and 1 of the images that it was trained on.
        voxels: mean and deviation of clean voxels on that scale, by which its input and output are scaled, see
            `Preconditioning`; None leaves both as they are.
        alone: whether it was trained on single slices too, one repeated in all channels (gap 0). Class labels do not
            say so: DiffusionBlend's network has a thousand, and was trained with two of them.

    Attributes:
        channels: slices of a stack.
        dimensions: 2.
        gaps: how many gaps between slices it tells apart: 0 (one slice, repeated), 1, ...; 0 where it is not told.
        alone: whether it takes single slices.
        schedule: what its steps mean, and what its output stands for.
        scheduler: the config that the schedule is of.
        scale: values for attenuation 0 and 1.
        preconditioning: of input and output, or None.

    Raises:
        ValueError: a U-Net or a scheduler that does not fit.
    """

    dimensions = 2

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: Mapping[str, Any] | None = None,
        fold: int = 1,
        coordinates: bool = False,
        scale: tuple[float, float] = (-1.0, 1.0),
        voxels: tuple[float, float] | None = None,
        alone: bool = True,
    ) -> None:
        super().__init__()
        inputs, outputs = unet.config.in_channels, unet.config.out_channels
        images = inputs - 2 * coordinates
        self.channels, beside = divmod(images, fold**2)
        if beside or self.channels < 1 or outputs not in (images, 2 * images):
            raise ValueError(
                f"the U-Net has {inputs} input and {outputs} output channels with fold {fold} and coordinates "
                f"{coordinates}; as many out as in (without coordinates), or twice as many, are expected."
            )
        self.scheduler = dict(scheduler or {})
        if not scale[0] < scale[1]:
            raise ValueError(f"scale is {tuple(scale)}; two numbers, low < high, are expected.")
        self.unet = unet
        self.fold, self.coordinates, self.scale = fold, coordinates, tuple(scale)
        self.gaps = unet.config.num_class_embeds or 0
        self.alone = self.channels == 1 or (alone and self.gaps > 0)
        self.multiple = fold * 2 ** (len(unet.config.block_out_channels) - 1)
        self.schedule = NoiseSchedule.from_scheduler(self.scheduler)
        self.preconditioning = preconditioned(voxels, self.schedule)

    @property
    def architecture(self) -> dict[str, Any]:
        """What the configs of U-Net and scheduler do not say, as JSON can hold it."""
        voxels = None if self.preconditioning is None else list(self.preconditioning)
        return {
            "fold": self.fold,
            "coordinates": self.coordinates,
            "scale": list(self.scale),
            "voxels": voxels,
            "alone": self.alone,
        }

    def forward(
        self,
        noisy: Tensor,
        step: Tensor | int,
        gap: Tensor | int = 1,
        coordinates: Tensor | None = None,
    ) -> Tensor:
        """Return the network's output, of which `schedule.prediction` says what it is.

        Args:
            noisy: (N, channels, H, W), on the scale of the network.
            step: of the schedule, one or (N,).
            gap: slices from one channel to the next, one or (N,).
            coordinates: (N, 2, H, W) row and column of every pixel from -1 to 1; None takes the images for whole
                slices.

        Returns:
            (N, channels, H, W).

        Raises:
            ValueError: other channels, or a gap that the network was not trained for.
        """
        if noisy.ndim != 4 or noisy.shape[1] != self.channels:
            raise ValueError(
                f"noisy has shape {tuple(noisy.shape)}; (N, {self.channels}, H, W) is expected."
            )
        height, width = noisy.shape[-2:]
        steps, seen = of_batch(step, noisy), noisy
        if self.preconditioning is not None:
            seen = self.preconditioning.entering(noisy, steps, self.schedule)
        inputs = self._padded(seen)
        if self.fold > 1:
            inputs = F.pixel_unshuffle(inputs, self.fold)
        if self.coordinates:
            places = whole_slice(noisy) if coordinates is None else coordinates.to(noisy)
            places = F.avg_pool2d(self._padded(places), self.fold)
            inputs = torch.cat((inputs, places), dim=1)
        labels = self._labels(gap, noisy) if self.gaps else None
        output = self.unet(inputs, steps, class_labels=labels).sample
        output = output[:, : self.channels * self.fold**2]
        if self.fold > 1:
            output = F.pixel_shuffle(output, self.fold)
        output = output[..., :height, :width]
        if self.preconditioning is None:
            return output
        return self.preconditioning.leaving(output, noisy, steps, self.schedule)

    def predict(
        self, noisy: Tensor, step: Tensor | int, told: Mapping[str, Any] | None = None
    ) -> Tensor:
        """Return the noise in images, see `Denoiser.predict`.

        Args:
            noisy: (N, channels, H, W), or (N, 1, H, W) single slices for a network of several
                channels that takes them alone.
            step: of the schedule, one or (N,).
            told: `gap` and `coordinates`, as of `forward`.

        Returns:
            (N, C, H, W) of variance 1.
        """
        told = told or {}
        gap, coordinates = told.get("gap", 1), told.get("coordinates")
        single = noisy.shape[1] == 1 < self.channels and self.alone
        if single:
            noisy, gap = noisy.expand(-1, self.channels, -1, -1), 0
        output = self(noisy, step, gap, coordinates)
        noise = self.schedule.noise_of(output, noisy, step)
        return noise.mean(dim=1, keepdim=True) if single else noise

    def predict_bytes(self, images: int, height: int, width: int) -> int:
        """Bytes that so many images take at the worst moment, beside the weights and themselves.

        That is the first residual block of the last level: the outputs of all blocks on the way down, and thrice what
        enters the block, the level below beside the finest.
        """
        pixels = images * (height + -height % self.multiple) * (width + -width % self.multiple)
        widths, layers = self.unet.config.block_out_channels, self.unet.config.layers_per_block
        kept = sum((layers + 1) * channels / 4**level for level, channels in enumerate(widths))
        entering = 3 * sum(widths[:2]) if len(widths) > 1 else 6 * widths[0]
        numbers = (kept + entering + widths[0]) / self.fold**2 + self.channels
        return int(4 * pixels * numbers)

    def _labels(self, gap: Tensor | int, noisy: Tensor) -> Tensor:
        # What is not yet on the device is looked at; the rest would have to be waited for.
        numbers = torch.as_tensor(gap)
        if (
            numbers.device.type == "cpu"
            and not 0 <= int(numbers.min()) <= int(numbers.max()) < self.gaps
        ):
            raise ValueError(
                f"gap is {numbers.tolist()}; whole numbers from 0 to {self.gaps - 1}, those of the network, are "
                "expected."
            )
        return of_batch(numbers, noisy)

    def _padded(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        padding = (0, -width % self.multiple, 0, -height % self.multiple)
        return F.pad(images, padding, mode="replicate") if any(padding) else images


def whole_slice(images: Tensor) -> Tensor:
    """Return row and column of every pixel of images (N, C, H, W) that show whole slices, (N, 2, H, W)."""
    rows, columns = (
        torch.linspace(-1, 1, count, device=images.device) for count in images.shape[-2:]
    )
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    return places.to(images.dtype).expand(len(images), -1, -1, -1)


class CompactDenoiser(UNetDenoiser):
    """A small `UNetDenoiser` before its training, which two CPU cores can train.

    Args:
        channels: slices of a stack.
        widths: channels of the levels, finest first; each level halves the size. Multiples of 8.
        layers: residual blocks of each level on the way down; on the way up there is one more.
        fold: edge in pixels of the squares that are turned into channels before the network.
        gaps: how many gaps between slices it tells apart; 0 for none.
        coordinates: whether the places of pixels are two further channels of its input.
        prediction: what its output stands for.
        beta_schedule: of diffusers' `DDPMScheduler`.
        steps: of the schedule.
        voxels: mean and deviation of clean voxels, from -1 for attenuation 0 to 1 for 1; None scales nothing.
        alone: whether it is going to be trained on single slices too (gap 0).

    Raises:
        ValueError: widths that are no multiples of 8, or a fold below 1.
    """

    def __init__(
        self,
        channels: int = 3,
        widths: Sequence[int] = (32, 64, 96, 128),
        layers: int = 1,
        fold: int = 2,
        gaps: int = 4,
        coordinates: bool = False,
        prediction: Prediction = "v_prediction",
        beta_schedule: Literal["linear", "squaredcos_cap_v2"] = "linear",
        steps: int = 1000,
        voxels: tuple[float, float] | None = None,
        alone: bool = True,
    ) -> None:
        from diffusers import UNet2DModel

        if min(fold, layers, channels) < 1 or not widths or any(w < 8 or w % 8 for w in widths):
            raise ValueError(
                f"channels is {channels}, fold {fold}, layers {layers} and widths {tuple(widths)}; numbers of at "
                "least 1 and widths that are multiples of 8 are expected."
            )
        images = channels * fold**2
        unet = UNet2DModel(
            in_channels=images + 2 * coordinates,
            out_channels=images,
            down_block_types=("DownBlock2D",) * len(widths),
            up_block_types=("UpBlock2D",) * len(widths),
            block_out_channels=tuple(widths),
            layers_per_block=layers,
            norm_num_groups=8,
            attention_head_dim=min(32, widths[-1]),
            resnet_time_scale_shift="scale_shift",
            num_class_embeds=gaps or None,
        )
        scheduler = {
            "_class_name": "DDPMScheduler",
            "num_train_timesteps": steps,
            "beta_schedule": beta_schedule,
            "prediction_type": prediction,
            "clip_sample": False,
        }
        super().__init__(unet, scheduler, fold, coordinates, voxels=voxels, alone=alone)
        self.to(memory_format=torch.channels_last)
