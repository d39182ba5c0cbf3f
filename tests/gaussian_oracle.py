"""What tests of Gaussians compare with: leaves for gradients, exact line integrals, largest differences."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from diffnr_lightning.geometry import ScanGeometry
from diffnr_lightning.representations.gaussians.poses import rotation_matrices


def leaves(tensors: tuple[Tensor, ...], dtype: torch.dtype) -> list[Tensor]:
    """Leaf tensors of which the quaternions still have to be normalised."""
    stretched = [*tensors[:2], 1.7 * tensors[2], tensors[3]]
    return [t.to(dtype).clone().requires_grad_() for t in stretched]


def normalised(tensors: list[Tensor]) -> tuple[Tensor, ...]:
    """The same with quaternions of length 1."""
    return tensors[0], tensors[1], F.normalize(tensors[2], dim=1), tensors[3]


def assert_same(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """The largest difference is a small part of the largest value."""
    difference = (actual.double() - expected.double()).abs().max()
    assert difference <= tolerance * expected.abs().max()


def line_integrals(tensors: tuple[Tensor, ...], scan: ScanGeometry) -> tuple[Tensor, Tensor]:
    """Exact line integrals of whole Gaussians (N, V, H, W), and distances in deviations squared.

    By inverse covariances in double precision, a way that the package does not go.
    """
    positions, scales, rotations, densities = (t.double() for t in tensors)
    axes = rotation_matrices(rotations)
    covariances = axes @ torch.diag_embed(scales**2) @ axes.transpose(1, 2)
    origins, directions = scan.rays(dtype=torch.float64)
    integrals, distances = [], []
    for position, precision, density in zip(
        positions, torch.linalg.inv(covariances), densities, strict=True
    ):
        offset = origins - position
        along = torch.einsum("...i,ij,...j->...", directions, precision, directions)
        mixed = torch.einsum("...i,ij,...j->...", offset, precision, directions)
        across = torch.einsum("...i,ij,...j->...", offset, precision, offset)
        distance2 = across - mixed**2 / along
        integrals.append(density * (2 * math.pi / along).sqrt() * torch.exp(-0.5 * distance2))
        distances.append(distance2)
    return torch.stack(integrals), torch.stack(distances)
