"""What a prior takes besides the slices: two projections, where the slices lie, and what is missing.

The two projections are the measured pair whose directions are nearest to perpendicular; the paper
conditions its SliceFixer on such a biplanar pair. They go to the network resized to a square
and divided by the larger maximum of the two, so that their unit does not matter. What is missing is
the backprojected residual of all projections, `solvers.backprojected_residual`: it shows where the
volume contradicts them, and `solvers.residual_evidence` how much of it may be noise. Both are ours;
the paper's SliceFixer does not look at them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diffnr_lightning.planes import plane_axis

BIPLANAR_SIZE = 64
"""Edge in pixels of the square that each projection of the pair is resized to, if nothing is said."""

PROMPTS = {
    "chest": "remove artifacts for this chest CT slice",
    "tooth": "remove artifacts for this tooth CT slice",
    "any": "remove artifacts for this CT slice",
}
"""Prompts of the SliceFixer, by organ: the sentences of the released code. (The
paper's figure writes them with a capital, which the tokenizer drops, and a full stop.)"""


class Conditioning(NamedTuple):
    """Side information for N slices of one volume, or of N different volumes in training.

    Attributes:
        biplanar: (1, 2, h, w) shared by all slices, or (N, 2, h, w); two projections in [0, 1]. All
            zeros mean that no projections are known. A SliceFixer also takes features of them that
            were computed before, (1, 2, F) or (N, 2, F).
        plane: (N,) int64, volume axis sliced along; (1,) for all slices alike.
        position: (N,) float, where each slice lies along its normal: -1 first, +1 last; (1,) alike.
        views: (N,) float, number of projections behind the degraded volume, 0 where unknown; (1,)
            alike.
        residual: (N, C, H, W) slices of the backprojected residual, with the neighbours that the
            degraded slices have. All zeros mean that it is not known; (1, 1, 1, 1) alike.
        noise: (N, 1, H, W) standard deviation of the noise in the residual of the slice itself. All zeros mean
            that it is not known; (1, 1, 1, 1) alike.
    """

    biplanar: Tensor
    plane: Tensor
    position: Tensor
    views: Tensor
    residual: Tensor = torch.zeros(1, 1, 1, 1)
    noise: Tensor = torch.zeros(1, 1, 1, 1)

    def to(self, device: torch.device | str) -> Conditioning:
        """The same conditioning on another device."""
        return Conditioning(*(field.to(device) for field in self))

    def for_slices(
        self,
        plane: str,
        positions: Tensor,
        residual: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Conditioning:
        """The conditioning of some slices of the volume.

        Args:
            plane: `axial`, `coronal` or `sagittal`.
            positions: (N,) in [-1, 1], where the slices lie along the normal of the plane.
            residual: (N, C, H, W) of these slices, if it is known.
            noise: (N, 1, H, W) of these slices, if it is known.

        Returns:
            Conditioning with the projections and views of this one.

        Raises:
            ValueError: unknown plane.
        """
        return self._replace(
            plane=torch.full((1,), plane_axis(plane), device=positions.device),
            position=positions,
            residual=self.residual if residual is None else residual,
            noise=self.noise if noise is None else noise,
        )


def prompt_of(organ: str) -> str:
    """The SliceFixer's prompt for slices of an organ.

    Raises:
        ValueError: an organ without a sentence.
    """
    if organ not in PROMPTS:
        raise ValueError(
            f"organ is {organ!r}, for which there is no prompt; expected one of "
            f"{', '.join(PROMPTS)}, or a prompt of your own."
        )
    return PROMPTS[organ]


def biplanar_pair(directions: Tensor) -> tuple[int, int]:
    """The two views whose directions are nearest to perpendicular.

    Opposite directions count as the same (0 degrees apart). Of equally good pairs the one with the
    smallest first, then second index is taken, so that a uniform orbit gives (0, V/4).

    Args:
        directions: (V,) angles in rad about one axis, or (V, 3) vectors along the central rays.

    Returns:
        Indices (i, j), i < j.

    Raises:
        ValueError: fewer than two views or wrong shape.
    """
    directions = torch.as_tensor(directions, dtype=torch.float64)
    if directions.shape[1:] not in ((), (3,)) or directions.ndim == 0 or len(directions) < 2:
        raise ValueError(
            f"directions has shape {tuple(directions.shape)}; a biplanar pair needs angles (V,) or "
            "vectors (V, 3) of at least two views."
        )
    if directions.ndim == 1:
        directions = torch.stack((torch.cos(directions), torch.sin(directions)), dim=1)
    unit = F.normalize(directions, dim=1)
    # Rounded: the choice among equally good pairs must not hang on the last bit of a cosine.
    cosine = torch.round((unit @ unit.T).abs() * 1e6)
    cosine[torch.tril(torch.ones_like(cosine, dtype=torch.bool))] = torch.inf
    first, second = divmod(int(torch.argmin(cosine)), len(unit))
    return first, second


def biplanar_conditioning(
    projections: Tensor, directions: Tensor, *, size: int = BIPLANAR_SIZE
) -> Conditioning:
    """Conditioning of a whole volume from its projections.

    Args:
        projections: (V, H, W) line integrals, any unit.
        directions: (V,) angles in rad, or (V, 3) central ray directions.
        size: edge in pixels of the square each projection is resized to.

    Returns:
        Conditioning with biplanar (1, 2, size, size) in [0, 1], views = V, axial, position 0
        (`repair_volume` fills plane and position in).

    Raises:
        ValueError: shapes that do not fit together, or fewer than two views.
    """
    if projections.ndim != 3 or len(projections) != len(directions):
        raise ValueError(
            f"projections has shape {tuple(projections.shape)} and directions "
            f"{tuple(directions.shape)}; expected (V, H, W) and one direction for each view."
        )
    pair = projections[list(biplanar_pair(directions.cpu()))].detach().float().clamp(min=0)
    pair = F.interpolate(
        pair[None], size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )
    device = projections.device
    return Conditioning(
        biplanar=pair / pair.amax().clamp(min=torch.finfo(torch.float32).tiny),
        plane=torch.zeros(1, dtype=torch.int64, device=device),
        position=torch.zeros(1, device=device),
        views=torch.full((1,), float(len(projections)), device=device),
    )
