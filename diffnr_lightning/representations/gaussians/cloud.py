"""A cloud of 3D Gaussians: parameters, activations, initialisation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from torch import Tensor, nn

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.representations.base import FAR_VOXELS, Representation
from diffnr_lightning.representations.gaussians.lines import (
    Integral,
    affine_mass_loss,
    check_integral,
)
from diffnr_lightning.representations.gaussians.render import (
    CUT,
    density_at,
    render_gaussians,
    voxelise_gaussians,
)
from diffnr_lightning.representations.gaussians.shape import check_cut
from diffnr_lightning.representations.gaussians.statistics import ScreenStatistics

logger = logging.getLogger("diffnr")

RATES = {"positions": 2e-4, "raw_densities": 1e-2, "raw_scales": 5e-3, "raw_rotations": 1e-3}
SMALLEST_DENSITY = 1e-4
# In units of half the largest edge; neighbours may be nearer where voxels are drawn repeatedly.
SMALLEST_START = 1e-3
WORTH_A_WARNING = 0.01


class GaussianCloud(Representation):
    """Represent a volume as a sum of N 3D Gaussians.

    Parameters live in a box whose largest edge is 2: `positions` (N, 3); `raw_scales` (N, 3), a
    sigmoid maps them between the bounds; `raw_rotations` (N, 4), normalised quaternions;
    `raw_densities` (N,), through softplus.

    Args:
        grid: the box.
        num_gaussians: how many to begin with.
        density_threshold: voxels of the first reconstruction above this may become Gaussians.
        density_scale: density of a new Gaussian as a share of its voxel's, before calibration.
        calibrate: whether densities are scaled once by the factor that fits the first renderings
            to the measurement best.
        scale_bounds: least and largest standard deviation as shares of the largest edge.
        cut: where a Gaussian ends, in standard deviations.
        integral: "affine" splats Gaussians with a perspective of first order; "exact" integrates
            along the ray of each pixel. See `render_gaussians`.

    Attributes:
        statistics: what density control asks for, gathered by backward passes.

    Raises:
        ValueError: no Gaussian, bounds that are not in order, a cut outside (0, 4], or another
            integral.

    Source: R2-Gaussian (activations, bounds 0.0005 and 0.5, threshold 0.05, share 0.15, scale from
    the three nearest neighbours). Deviations: a new Gaussian lies anywhere in its voxel, where the
    released code takes the voxel's corner; voxels are drawn repeatedly where there are too few,
    where it fails; `calibrate` is ours.
    """

    def __init__(
        self,
        grid: VolumeGrid,
        *,
        num_gaussians: int = 50_000,
        density_threshold: float = 0.05,
        density_scale: float = 0.15,
        calibrate: bool = True,
        scale_bounds: tuple[float, float] = (0.0005, 0.5),
        cut: float = CUT,
        integral: Integral = "affine",
    ) -> None:
        super().__init__(grid)
        if num_gaussians < 1:
            raise ValueError(f"num_gaussians is {num_gaussians}; at least one is expected.")
        if not 0 < scale_bounds[0] < scale_bounds[1]:
            raise ValueError(f"scale_bounds is {scale_bounds}; 0 < least < largest is expected.")
        check_cut(cut)
        check_integral(integral)
        self.density_threshold = density_threshold
        self.density_scale = density_scale
        self.calibrate = calibrate
        self.cut = cut
        self.integral = integral
        self.edge_mm = max(grid.size_mm)
        self.scale_bounds_mm = tuple(bound * self.edge_mm for bound in scale_bounds)
        # A buffer, since to bring it to a GPU in each iteration would wait for the GPU.
        centre = torch.tensor(grid.centre_mm)
        self.register_buffer("_centre_mm", centre, persistent=False)
        self.resize(num_gaussians)

    @property
    def num_gaussians(self) -> int:
        """Gaussians that there are now."""
        return len(self.positions)

    def resize(self, count: int) -> None:
        """Make room for another number of Gaussians, as a checkpoint needs; values are lost."""
        like = self._centre_mm
        self.positions = nn.Parameter(like.new_zeros(count, 3))
        self.raw_scales = nn.Parameter(like.new_zeros(count, 3))
        rotations = like.new_zeros(count, 4)
        rotations[:, 0] = 1
        self.raw_rotations = nn.Parameter(rotations)
        self.raw_densities = nn.Parameter(like.new_zeros(count))
        self.statistics = ScreenStatistics(count)

    def activated(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return centres and scales (N, 3) in mm, unit quaternions (N, 4), densities (N,)."""
        low, high = self.scale_bounds_mm
        return (
            self._centre_mm + 0.5 * self.edge_mm * self.positions,
            low + (high - low) * torch.sigmoid(self.raw_scales),
            F.normalize(self.raw_rotations, dim=1),
            F.softplus(self.raw_densities),
        )

    def density(self, points: Tensor) -> Tensor:
        """Return the density at points (..., 3) in mm, as (...)."""
        points = points.to(self.positions.dtype)
        return density_at(*self.activated(), points, cut=self.cut)

    def render(self, scan: ScanGeometry) -> Tensor:
        """Return the line integrals (V, H, W) in mm; the backward pass adds to `statistics`."""
        return self.evaluate(scan, ())[0]

    def query(self, grid: VolumeGrid) -> Tensor:
        """Return the density at the voxels of a grid (Z, Y, X)."""
        return voxelise_gaussians(*self.activated(), grid, cut=self.cut)

    def evaluate(
        self, scan: ScanGeometry, grids: Sequence[VolumeGrid]
    ) -> tuple[Tensor, list[Tensor]]:
        """Return renderings and density on grids of one activation; see `Representation`."""
        gaussians = self.activated()
        rendered = render_gaussians(
            *gaussians,
            scan,
            cut=self.cut,
            statistics=self.statistics,
            integral=self.integral,
        )
        return rendered, [voxelise_gaussians(*gaussians, grid, cut=self.cut) for grid in grids]

    def place(self, positions_mm: Tensor, scales_mm: Tensor, densities: Tensor) -> None:
        """Set the cloud to unrotated Gaussians, keeping the optimisable form.

        Args:
            positions_mm: (N, 3) centres, world x, y, z.
            scales_mm: (N,) or (N, 3) standard deviations; those outside the bounds are moved to
                them, or nearly, since a sigmoid never reaches its bounds.
            densities: (N,) positive peak values.
        """
        self.resize(len(positions_mm))
        low, high = self.scale_bounds_mm
        if scales_mm.ndim == 1:
            scales_mm = scales_mm[:, None].expand(-1, 3)
        share = ((scales_mm - low) / (high - low)).clamp(1e-4, 1 - 1e-4)
        centre = positions_mm.new_tensor(self.grid.centre_mm)
        with torch.no_grad():
            self.positions.copy_((positions_mm - centre) / (0.5 * self.edge_mm))
            self.raw_scales.copy_(torch.logit(share))
            self.raw_densities.copy_(inverse_softplus(densities))

    def initialise(
        self,
        volume: Tensor,
        projections: Tensor,
        scan: ScanGeometry,
        seed: int,
        weights: Tensor | None = None,
    ) -> None:
        """Sample Gaussians where a first reconstruction shows something; see `Representation`.

        Rays whose weights are 0 have no part in the calibration.

        Raises:
            ValueError: a volume on another grid, nothing in it above the threshold, or, to
                calibrate, no ray with light or no view that sees a Gaussian.
        """
        self.check_volume(volume)
        count, device = self.num_gaussians, volume.device
        volume = volume.detach().cpu()
        candidates = torch.nonzero(volume > self.density_threshold)  # (M, 3) z, y, x
        if not len(candidates):
            raise ValueError(
                "no voxel of the first reconstruction exceeds density_threshold "
                f"{self.density_threshold}; lower it or check the scale of the projections."
            )
        generator = torch.Generator().manual_seed(seed)
        if len(candidates) >= count:
            drawn = torch.randperm(len(candidates), generator=generator)[:count]
        else:
            logger.info("%d voxels become %d Gaussians, some repeatedly", len(candidates), count)
            drawn = torch.randint(len(candidates), (count,), generator=generator)
        index = candidates[drawn]
        inside = torch.rand(count, 3, generator=generator) - 0.5
        edges = torch.tensor(self.grid.voxel_mm[::-1])
        origin = torch.tensor(self.grid.origin_mm)
        positions = origin + (index.flip(1) + inside) * edges
        if count > 1:
            distance, _ = cKDTree(positions.numpy()).query(positions.numpy(), k=min(4, count))
            # The nearest of all is the Gaussian itself.
            scales = torch.from_numpy(np.sqrt(np.square(distance[:, 1:]).mean(axis=1))).float()
        else:
            scales = edges.max().reshape(1)
        values = volume[tuple(index.T)]
        self.place(
            positions.float(),
            scales.clamp(min=SMALLEST_START * 0.5 * self.edge_mm),
            (self.density_scale * values).clamp(min=SMALLEST_DENSITY),
        )
        self.to(device)
        self._warn_of_far_source(scan)
        if self.integral == "affine":
            self._warn_of_perspective(scan)
        if self.calibrate:
            self._calibrate(projections, scan, weights)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return one group for each kind of parameter, with R2-Gaussian's learning rates."""
        return [
            {"name": name, "params": [getattr(self, name)], "lr": rate}
            for name, rate in RATES.items()
        ]

    def _warn_of_far_source(self, scan: ScanGeometry) -> None:
        """Say so where float32, in which kernels hold positions from the source, is too coarse."""
        away = self.voxels_to_source(scan)
        if away > FAR_VOXELS:
            logger.warning(
                "the source is %.3g voxels away, where float32 places Gaussians to %.2g voxels only; "
                "take a field or voxels, or say that the beam is parallel where it nearly is",
                away,
                away * torch.finfo(torch.float32).eps,
            )

    @torch.no_grad()
    def _warn_of_perspective(self, scan: ScanGeometry) -> None:
        """Say so where the Gaussians are too large for splatting so near to the source."""
        positions, scales, _, densities = self.activated()
        lost = affine_mass_loss(positions, scales, densities, scan)
        if lost > WORTH_A_WARNING:
            logger.warning(
                "affine splatting loses about %.1f %% of the projections' mass with Gaussians of "
                "%.3g mm this near to the source; set integral to exact, or take more Gaussians",
                100 * lost,
                float(scales.square().mean().sqrt()),
            )

    @torch.no_grad()
    def _calibrate(
        self, projections: Tensor, scan: ScanGeometry, weights: Tensor | None, views: int = 6
    ) -> None:
        """Scale all densities by the factor that fits about `views` renderings best, where rays saw light."""
        lit = torch.ones_like(projections) if weights is None else weights > 0
        with_light = torch.nonzero(lit.flatten(1).any(1))[:, 0].tolist()
        if not with_light:
            raise ValueError(
                "the weights are 0 for every ray, and rays with light are expected for calibration; check the "
                "counts of the scan, or set calibrate to false."
            )
        chosen = with_light[:: max(1, len(with_light) // views)]
        rendered, measured = self.render(scan[chosen]) * lit[chosen], projections[chosen]
        energy = rendered.square().sum()
        if not energy > 0:
            raise ValueError(
                "no Gaussian is seen in the views used for calibration; check that the scan looks at "
                "the grid, or set calibrate to false."
            )
        factor = (rendered * measured).sum() / energy
        densities = F.softplus(self.raw_densities) * factor.clamp(min=1e-3)
        self.raw_densities.copy_(inverse_softplus(densities))


def inverse_softplus(values: Tensor) -> Tensor:
    """Return log(exp(v) - 1) of positive values, written so that large ones do not overflow."""
    return values + torch.log(-torch.expm1(-values))
