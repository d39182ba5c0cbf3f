"""Repair of a volume by a prior of slices: planes, resampling and batches are known here alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diffnr_lightning.planes import plane_axis
from diffnr_lightning.priors.conditioning import Conditioning
from diffnr_lightning.priors.prior import Prior

EMPTY = 0.02
"""A slice whose maximum is below this holds air and its noise; the lightest tissue, inflated lung, has 0.05."""


class PlanesRepaired(NamedTuple):
    """What a prior makes of a volume in the planes that it sees.

    Attributes:
        volume: (Z, Y, X) in [0, 1], the mean of what it makes of the planes.
        spread: mean square by which the planes differ from that mean, over all voxels; 0 of a single plane.
    """

    volume: Tensor
    spread: float


@contextmanager
def _drawing_alike(device: torch.device) -> Iterator[None]:
    """Let networks that draw, as of a `SliceFixer` with sampled latents, draw the same in every repair."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


# Not inference_mode: its results could not be the reference of a loss.
@torch.no_grad()
def repair_volume(
    prior: Prior,
    volume: Tensor,
    conditioning: Conditioning,
    *,
    planes: Sequence[str] = ("axial",),
    batch_size: int = 16,
    residual: Tensor | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """Repair every slice of a volume and stack the slices again.

    A network that draws at random draws the same in every repair, so that a run that goes on repairs as one that was
    not interrupted.

    Args:
        prior: repairs slices; lies on the device of the volume. They are resized to its `size`, see `repair_resized`.
        volume: (Z, Y, X), normalised attenuation; clipped to [0, 1] before anything else.
        conditioning: of the volume, see `biplanar_conditioning`.
        planes: directions of slicing; the results of several planes are averaged.
        batch_size: slices repaired at once.
        residual: (Z, Y, X) backprojected residual of the volume, for a prior that takes it; None
            where it is not known.
        noise: (Z, Y, X) standard deviation of the noise in the residual, likewise; see
            `solvers.residual_evidence`.

    Returns:
        (Z, Y, X) in [0, 1]. Slices with a maximum below 0.02, which hold nothing but air, are left to the other planes;
        what lies in no other slice comes back as it went in, clipped.

    Raises:
        ValueError: not a volume, or one with NaN, a residual or noise of another shape, no or unknown planes, or a
            batch_size below 1.
    """
    given = {"planes": planes, "batch_size": batch_size, "residual": residual, "noise": noise}
    return repair_planes(prior, volume, conditioning, **given).volume


@torch.no_grad()
def repair_planes(
    prior: Prior,
    volume: Tensor,
    conditioning: Conditioning,
    *,
    planes: Sequence[str] = ("axial",),
    batch_size: int = 16,
    residual: Tensor | None = None,
    noise: Tensor | None = None,
) -> PlanesRepaired:
    """Repair a volume and say how far the planes differ; the arguments are those of `repair_volume`.

    Each plane is a look of its own at the same voxels, so that where they differ the network errs.
    """
    if volume.ndim != 3:
        raise ValueError(f"volume has shape {tuple(volume.shape)}; expected (Z, Y, X).")
    if volume.isnan().any():
        raise ValueError(
            "volume holds voxels that are NaN; numbers are expected: lower the rates of what has made it and diverged."
        )
    for name, shown in (("residual", residual), ("noise", noise)):
        if shown is not None and shown.shape != volume.shape:
            raise ValueError(
                f"{name} has shape {tuple(shown.shape)}; {tuple(volume.shape)} is expected."
            )
    if not planes or batch_size < 1:
        raise ValueError(
            f"repair_volume got planes={tuple(planes)}, batch_size={batch_size}; expected at least one plane and one "
            "slice in a batch."
        )
    clipped = volume.detach().float().clamp(0, 1)
    conditioning = conditioning.to(volume.device)
    stacks = [clipped.movedim(plane_axis(plane), 0) for plane in planes]
    filled = [torch.nonzero(s.amax(dim=(1, 2)) >= EMPTY).flatten() for s in stacks]
    summed, squares, repairs = (torch.zeros_like(clipped) for _ in range(3))
    with _drawing_alike(volume.device):
        for plane, stack, indices in zip(planes, stacks, filled, strict=True):
            axis = plane_axis(plane)
            repairs.movedim(axis, 0)[indices] += 1
            offsets = torch.arange(-prior.context, prior.context + 1, device=volume.device)
            # An empty tensor splits into one empty batch, which no prior should see.
            for batch in indices.split(batch_size) if len(indices) else ():
                # At the ends of the volume the outermost slice stands in for missing neighbours.
                neighbours = (batch[:, None] + offsets).clamp(0, len(stack) - 1)
                positions = 2 * batch / max(len(stack) - 1, 1) - 1
                missing = deviation = None
                if residual is not None:
                    missing = residual.movedim(axis, 0)[neighbours]
                if noise is not None:
                    deviation = noise.movedim(axis, 0)[batch, None]
                placed = conditioning.for_slices(plane, positions, missing, deviation)
                repaired = repair_resized(prior, stack[neighbours], placed, prior.size)
                summed.movedim(axis, 0)[batch] += repaired
                squares.movedim(axis, 0)[batch] += (repaired - stack[batch]).square()
    times = repairs.clamp(min=1)
    mean = torch.where(repairs > 0, summed / times, clipped)
    # As changes, whose squares are small: those of the values would leave little of their difference.
    variance = squares / times - (mean - clipped).square()
    return PlanesRepaired(mean, float(variance.mean()) if len(planes) > 1 else 0.0)


def repair_resized(
    prior: Prior, slices: Tensor, conditioning: Conditioning, size: int | None
) -> Tensor:
    """Repair slices at another size.

    Args:
        prior: repairs them.
        slices: (N, C, H, W) in [0, 1].
        conditioning: for the N slices; residual and noise are resized with them.
        size: edge in pixels that they are resized to for the prior (bilinear up and down, aspect kept, missing part
            filled with zeros); None leaves them as they are.

    Returns:
        (N, H, W) in [0, 1], at their own size again.
    """
    height, width = slices.shape[-2:]
    longest = max(height, width)
    if size is None or size == longest == min(height, width):
        return prior.repair(slices, conditioning)
    resized_shape = tuple(max(round(edge * size / longest), 1) for edge in (height, width))

    def resized(images: Tensor) -> Tensor:
        enlarged = F.interpolate(images, size=resized_shape, mode="bilinear", antialias=True)
        return F.pad(enlarged, (0, size - resized_shape[1], 0, size - resized_shape[0]))

    for name in ("residual", "noise"):
        shown = getattr(conditioning, name)
        if shown.shape[-2:] == slices.shape[-2:]:
            conditioning = conditioning._replace(**{name: resized(shown)})
    repaired = prior.repair(resized(slices), conditioning)[
        :, : resized_shape[0], : resized_shape[1]
    ]
    back = F.interpolate(repaired[:, None], size=(height, width), mode="bilinear", antialias=True)
    return back[:, 0]
