"""What every prior promises: slices of a degraded volume in, repaired slices out."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from diffnr_lightning.priors.conditioning import Conditioning


@runtime_checkable
class Prior(Protocol):
    """A network (or function) that repairs slices.

    Slices are those of a volume (Z, Y, X): rows of an axial slice follow y and columns x, rows of the
    others follow z. A network that has learned slices of another orientation turns them itself, in
    training and in repair, as `SliceFixer` does.

    Attributes:
        context: neighbouring slices that the prior sees on each side of the one it repairs.
        size: edge in pixels that slices must have, None where any size is served.
        biplanar_size: edge in pixels of the projections that suits it best, the `size` of
            `biplanar_conditioning`.
        residual: whether the prior takes the backprojected residual.

    A prior whose attribute `noise` is true takes the standard deviation of the noise in it as well; one
    without this attribute does not. One with a method ``repair_bytes(slices, height, width)`` says what it needs of a
    device beside its weights; what another one needs is not known before it runs.
    """

    context: int
    size: int | None
    biplanar_size: int
    residual: bool

    def repair(self, slices: Tensor, conditioning: Conditioning) -> Tensor:
        """Repair the centre slice of each stack, without gradient.

        Args:
            slices: (N, 2 context + 1, H, W) in [0, 1]; the centre channel is repaired.
            conditioning: for the N slices.

        Returns:
            (N, H, W) in [0, 1].
        """
        ...
