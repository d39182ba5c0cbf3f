"""Objects whose line integrals are known in closed form."""

import torch
from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry


def ball_integrals(scan: ScanGeometry, centre: tuple[float, float, float], radius: float) -> Tensor:
    """Exact line integrals (V, H, W) through a ball of density 1."""
    origins, directions = scan.rays(dtype=torch.float64)
    offset = torch.tensor(centre, dtype=torch.float64) - origins
    along = (offset * directions).sum(-1)
    squares = offset.square().sum(-1) - along.square()
    return (2.0 * (radius**2 - squares).clamp_min(0.0).sqrt()).float()
