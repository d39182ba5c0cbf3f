"""Pairs of projections, from which a network learns to repair renderings of views that were not measured."""

from __future__ import annotations

from typing import Any

from diffnr_lightning.lazy import deferred
from diffnr_lightning.workflows.methods.problem import Problem

Tensor = deferred("torch.Tensor")

SHARES = (0.25, 0.5)
"""Of the way to the next view at which pairs are shown: from the first step to the middle."""


def projection_pairs(
    problem: Problem, tensors: dict[str, Tensor], info: dict[str, Any], share: float
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Turn pairs of volumes into pairs of their projections between the measured views.

    Args:
        problem: that was reconstructed.
        tensors: degraded (S, Z, Y, X) and clean (Z, Y, X).
        info: of these.
        share: of the way from each view to the next.

    Returns:
        degraded (S, N, H, W) and clean (N, H, W), divided by the largest measured line integral, as
        `priors.ProjectionRepairer` does it; and their info.

    Source: pairs of renderings and images, from which Difix3D+ learns, carried over to CT as DiffNR's Table 5 does.
    Deviation: renderings are projections of the snapshots' voxels, which solvers have too; those of Gaussians differ
    from them by what voxels do not hold.
    """
    import torch

    from diffnr_lightning.geometry import views_between
    from diffnr_lightning.metrics import psnr
    from diffnr_lightning.projectors import project

    scan = views_between(problem.scan, share)
    peak = float(problem.projections.max())

    def shown(volume: Tensor) -> Tensor:
        on_device = volume.to(problem.projections.device)
        return (project(on_device, problem.grid, scan) / peak).clamp(0, 1).cpu()

    clean = shown(tensors["clean"])
    degraded = torch.stack([shown(volume.clamp(0, 1)) for volume in tensors["degraded"]])
    errors = [float((image - clean).double().square().mean()) for image in degraded]
    described = {
        **info,
        "kind": "projections",
        "share_to_next_view": round(share, 4),
        "psnr": [round(psnr(error, most=120.0), 2) for error in errors],
    }
    return {"degraded": degraded, "clean": clean}, described
