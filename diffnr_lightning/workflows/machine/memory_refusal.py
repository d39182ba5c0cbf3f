"""Runs that need more of a device than is free: refused before they begin, with the setting that would fit."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.priors import DdsRepairer
from diffnr_lightning.priors.slicefixers.memory import free_bytes
from diffnr_lightning.workflows.machine.memory import estimate
from diffnr_lightning.workflows.machine.sampler_memory import option
from diffnr_lightning.workflows.methods.postprocessing import Postprocessing
from diffnr_lightning.workflows.methods.sampler import Sampler
from diffnr_lightning.workflows.methods.scene import Scene

if TYPE_CHECKING:
    from diffnr_lightning.workflows.methods.problem import Method

logger = logging.getLogger("diffnr")


def refuse_what_cannot_fit(
    method: Method,
    grid: VolumeGrid,
    scan: ScanGeometry,
    device: torch.device,
    *,
    weighted: bool = False,
    surrounded: bool = False,
) -> None:
    """Say what a run needs of a CUDA device, and refuse it where that is not free.

    Args:
        method: as configured.
        grid: of the volume.
        scan: of the projections.
        device: of the run; on a CPU nothing is refused.
        weighted: whether rays have weights.
        surrounded: see `estimate`.

    Raises:
        ValueError: more is needed than is free; names the setting that would fit.
    """
    free = free_bytes(device) if device.type == "cuda" else None
    if free is None:
        return
    given = {"weighted": weighted, "surrounded": surrounded}
    needed = estimate(method, grid, scan, **given)
    logger.info("about %.1f GiB of %s will be needed (predicted)", needed.peak / 2**30, device)
    if needed.peak > free:
        raise ValueError(
            f"the run needs about {needed.peak / 2**30:.1f} GiB and {device} has {free / 2**30:.1f} GiB "
            f"free; {what_fits(method, grid, scan, free, **given)}."
        )


def what_fits(
    method: Method, grid: VolumeGrid, scan: ScanGeometry, free: int, **given: bool
) -> str:
    """Name the mildest change of settings with which a run needs no more than is free, in words."""
    for name, value in _changes(method, scan):
        if estimate(method, grid, scan, **given, changed={name: value}).peak <= free:
            owner = _owner_of_batches(method)
            words = {
                "batch_rays": "rays.rows * rays.columns * views",
                "batch_size": f"{owner}.batch_size",
                "most_gaussians": "density_control.limits.most_gaussians",
            }
            return f"it would fit with {words.get(name, f'optimisation.{name}')} = {value}"
    for share in (0.8, 0.65, 0.5, 0.4, 0.3, 0.2, 0.1):
        shape = tuple(max(1, round(share * edge)) for edge in grid.shape)
        if estimate(method, VolumeGrid(shape, 1.0), scan, **given).peak <= free:
            return f"it would fit with a case of {max(shape)} voxels an edge (--size of simulate or ingest)"
    return "expected a device with more memory"


def _owner_of_batches(method: Method) -> str:
    """Return the option that `batch_size` belongs to; empty where there is none."""
    if isinstance(method, Sampler):
        return "options"
    if isinstance(method, Postprocessing):
        return "repairer"
    if not isinstance(method, Scene) or method.pseudo_reference is None:
        return ""
    sampled = isinstance(method.pseudo_reference.repairer, DdsRepairer)
    return f"pseudo_reference.{'sampler' if sampled else 'repairer'}"


def _changes(method: Method, scan: ScanGeometry) -> Iterator[tuple[str, int]]:
    """Yield settings that need less, the mildest first."""
    if isinstance(method, Sampler):
        yield from (("batch_size", n) for n in (4, 1) if n < option(method, "batch_size"))
    if isinstance(method, Postprocessing) and method.repairer is not None:
        yield from (("batch_size", n) for n in (4, 1) if n < method.repairer.batch_size)
    if not isinstance(method, Scene):
        return
    if method.pseudo_reference is not None:
        for count in (4, 1):
            if count < method.pseudo_reference.repairer.batch_size:
                yield "batch_size", count
        yield "reference_size", 96
        yield "reference_size", 64
    if method.density_control is not None:
        for count in (250_000, 125_000, 60_000):
            if count < method.density_control.limits.most_gaussians:
                yield "most_gaussians", count
    if method.rays is not None:
        for rays in (1024, 512, 256):
            if rays < method.rays.rows * method.rays.columns * min(method.views, len(scan)):
                yield "batch_rays", rays
