"""Memory and operations that a sampler needs, known from shapes before it runs."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.priors import load_denoiser
from diffnr_lightning.solvers.diffusion import dds
from diffnr_lightning.workflows.machine.estimate import (
    F32,
    Estimate,
    Part,
    settling_bytes,
    solver_bytes,
)
from diffnr_lightning.workflows.methods.sampler import Sampler

SAMPLERS = {
    "dds": (19.3, 3.9, 1),
    "blend": (19.3, 3.9, 1),
    "diffusion_mbir": (23.2, 3.9, 2),
    "tpdm": (16.2, 3.9, 2),
    "patches": (17.4, 3.9, 1),
}
"""Volumes and sets of projections that a sampler holds at its worst moment, which is in the fit to the projections,
beside the measured ones, and how often a step asks the denoiser."""

OTHER_SAMPLER = (25, 5, 2)
ASKING_ONCE = ("ddip3d", "dinr")
"""Those of the other samplers that ask the denoiser once a step."""
KEPT, ASKED = 7, 4
"""Volumes that stay from step to step, and those of the moment in which the denoiser is asked."""

TRAINED = 6
"""Times what a denoiser takes of images that it takes where it is adapted on them."""


def sampler_estimate(
    method: Sampler, grid: VolumeGrid, scan: ScanGeometry, batch_size: int | None = None
) -> Estimate:
    """Return what a sampler needs for a case beside the projections.

    Args:
        method: as configured; its denoiser is read.
        grid: of the volume.
        scan: of the projections.
        batch_size: taken instead of the method's.

    Raises:
        FileNotFoundError: no such denoiser.
        ValueError: a damaged one.
    """
    denoiser = load_denoiser(method.denoiser)
    voxels, rays = math.prod(grid.shape), len(scan) * math.prod(scan.detector_shape)
    *_, evaluations = SAMPLERS.get(method.path, OTHER_SAMPLER)
    evaluations = 1 if method.path in ASKING_ONCE else evaluations
    batch = batch_size or option(method, "batch_size")
    edges = _edges(denoiser, grid)
    if denoiser.dimensions == 3:
        images = math.prod(edge // denoiser.patch + 1 for edge in grid.shape)
    else:
        images = grid.shape[0]
        if _side_by_side(method, denoiser):
            images = math.ceil(images / denoiser.channels)
    images *= evaluations * option(method, "tilings", 1)
    if updates := option(method, "updates", 0):
        # SCD adapts on all slabs, DDIP3D on one a time; the way back takes twice the way there.
        trained = grid.shape[0] if method.path == "scd" else option(method, "slices")
        images += 3 * updates * trained / option(method, "every", 1)
    passes = (1 + option(method, "cg_iterations")) * (2 if method.path == "tpdm" else 1)
    adapted = TRAINED * _predict_bytes(denoiser, option(method, "slices", 0), edges)
    needed = sampling_bytes(method.path, denoiser, grid, rays, batch)
    parts = [
        Part("denoiser", needed.denoiser, True),
        Part("noisy volume and what goes with it", needed.kept, True),
        Part(f"sampler {method.name}: fitted to the projections", needed.fitted, False),
        Part(
            f"sampler {method.name}: batch of the denoiser",
            max(needed.asked, F32 * ASKED * voxels + adapted),
            False,
        ),
    ]
    if method.start is not None:
        start = solver_bytes(method.start.name, voxels, rays)
        parts.append(Part(f"start: {method.start.name}", start, False))
    if method.finish == "settle":
        parts.append(Part("settling", settling_bytes(voxels, rays), False))
    # Every ray samples each slice twice, there and back.
    operations = images * _operations(denoiser, edges) + 80 * passes * rays * max(grid.shape)
    return Estimate(tuple(parts), option(method, "steps"), 30 * F32 * voxels, operations)


class SamplingBytes(NamedTuple):
    """What sampling takes.

    Attributes:
        denoiser: weights.
        kept: volumes that stay from step to step.
        fitted: beside them, in the moment in which a volume is fitted to the projections.
        asked: beside them, in the moment in which the denoiser is asked.
    """

    denoiser: int
    kept: int
    fitted: int
    asked: int


def sampling_bytes(
    name: str, denoiser: nn.Module, grid: VolumeGrid, rays: int, batch: int
) -> SamplingBytes:
    """Return what a sampler takes beside the projections.

    Args:
        name: of the function.
        denoiser: the network.
        grid: of the volume.
        rays: of all views.
        batch: images that the denoiser sees at once.
    """
    voxels = math.prod(grid.shape)
    volumes, projections, _ = SAMPLERS.get(name, OTHER_SAMPLER)
    edges = _edges(denoiser, grid)
    if name == "tpdm":  # axial slices or coronal ones, whichever are larger
        edges = (max(grid.shape[:2]), grid.shape[2])
    return SamplingBytes(
        sum(p.numel() * p.element_size() for p in denoiser.parameters()),
        F32 * KEPT * voxels,
        int(F32 * ((volumes - KEPT) * voxels + projections * rays)),
        F32 * ASKED * voxels + _predict_bytes(denoiser, batch, edges),
    )


def option(method: Sampler, name: str, default: Any = None) -> Any:
    """Return what an option of a sampler is, that of `dds` where it is handed on to it."""
    found = default
    for function in (dds, method.function):
        if name in (known := inspect.signature(function).parameters):
            found = known[name].default
    return method.options.get(name, found)


def _side_by_side(method: Sampler, denoiser: nn.Module) -> bool:
    """Return whether each slice is seen in one stack; else in as many as a stack has slices, or alone."""
    # A blend hands stacks of its own choice to `dds`: not jumping, every slice in the centre of its neighbours.
    if (jumping := option(method, "jumping")) is not None:
        return jumping
    kind = option(method, "stacks")
    return kind in ("adjacent", "alternating") or (kind is None and not denoiser.alone)


def _edges(denoiser: nn.Module, grid: VolumeGrid) -> tuple[int, ...]:
    """Return the edges of the images that a denoiser sees of a volume."""
    return (denoiser.patch,) * 3 if denoiser.dimensions == 3 else grid.shape[1:]


def _predict_bytes(denoiser: nn.Module, count: int, edges: tuple[int, ...]) -> int:
    """Return what so many images take; 0 of a denoiser that does not tell."""
    return denoiser.predict_bytes(count, *edges) if hasattr(denoiser, "predict_bytes") else 0


def _operations(denoiser: nn.Module, edges: tuple[int, ...]) -> float:
    """Return the operations of the layers for one image, counted without computing them."""
    shown, counted = copy.deepcopy(denoiser).to("meta"), []

    def count(layer: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        # A number of the result is a product with a row of weights; transposed, one of what is given.
        transposed = isinstance(layer, nn.ConvTranspose3d)
        places = (given[0] if transposed else result).numel()
        counted.append(2 * places * layer.weight[0].numel())

    for layer in shown.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.Conv3d, nn.ConvTranspose3d)):
            layer.register_forward_hook(count)
    image = torch.empty(1, denoiser.channels, *edges, device="meta")
    # Gap 0 is known to all that know any.
    told = {"gap": 0, "context": image}
    if denoiser.dimensions == 3:
        told["coordinates"] = torch.empty(1, 3, *edges, device="meta")
    shown.predict(image, 0, told)
    return float(sum(counted))
