"""Memory and time that a reconstruction needs, known from shapes before it runs.

Each operation has a formula: bytes alive at its worst moment beside what it is given. What stays through
the run is added up, and the worst moment comes on top. The formulas are those of the kernels on a CUDA
device; what these share with the CPU's is tested against measured peaks there. Nothing here was measured on
a GPU.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.priors import DdsRepairer
from diffnr_lightning.priors.slicefixers.memory import slices_bytes
from diffnr_lightning.representations import (
    GaussianCloud,
    LineTransformer,
    NeuralField,
    RayField,
    Representation,
    Siren,
)
from diffnr_lightning.workflows.machine.estimate import (
    F32,
    Estimate,
    Part,
    settling_bytes,
    solver_bytes,
    visible_bytes,
)
from diffnr_lightning.workflows.machine.sampler_memory import (
    option,
    sampler_estimate,
    sampling_bytes,
)
from diffnr_lightning.workflows.methods.postprocessing import Postprocessing
from diffnr_lightning.workflows.methods.sampler import Sampler
from diffnr_lightning.workflows.methods.scene import Scene
from diffnr_lightning.workflows.methods.solver import Solver

if TYPE_CHECKING:
    from diffnr_lightning.callbacks import RepairedProjections
    from diffnr_lightning.modules import SceneOptimization
    from diffnr_lightning.priors import Repairer
    from diffnr_lightning.workflows.methods.problem import Method

SLOPES = 12 * 2**24
"""Of the 3D SSIM, slab by slab; see `losses.ssim_triton`."""
BINS = 2**28
"""At most, of the lists of Gaussians; see `representations.gaussians.bins_triton`."""
DIRECTIONS = 15
"""Of `consistency.agree`, at most."""
PASSES = 20
"""Of a solver over all views, where it does not say."""


def ssim_2d_bytes(pixels: int) -> int:
    """Return what the SSIM of images takes with its gradient: two images, and three of slopes."""
    return F32 * 2 * pixels + min(12 * pixels, SLOPES)


def ssim_3d_bytes(voxels: int) -> int:
    """Return what the SSIM of volumes takes with its gradient: two volumes, and the slopes of a slab."""
    return F32 * 2 * voxels + min(12 * voxels, SLOPES)


def agreement_bytes(directions: int, voxels: int, rays: int) -> int:
    """Return what `consistency.agree` takes with so many directions, each of which is a volume."""
    return F32 * ((directions + 7) * voxels + 9 * rays)


def variation_bytes(voxels: int) -> int:
    """Return what the total variation of a volume takes with its gradient."""
    return F32 * 2 * voxels


def point_bytes(field: RayField) -> int:
    """Return what a field keeps of each point for the way back, and what that takes."""
    if isinstance(field, NeuralField):
        # The features and their gradient; the network is computed again, chunk by chunk.
        return 2 * F32 * field.encoding.width + 40
    if isinstance(field, Siren):
        return 11 * field.hidden[0].out_features * len(field.hidden) + 40
    if isinstance(field, LineTransformer):
        return 2 * F32 * field.encoding.width + 94 * field.enter.out_features * len(field.blocks)
    return 4096


def points_bytes(field: RayField, points: int) -> int:
    """Return what points of a field take with gradients, at most `ray_field.KEPT` of them at one time."""
    from diffnr_lightning.representations.fields.ray_field import KEPT

    network = 1536 * min(points, 2**18) if isinstance(field, NeuralField) else 0
    # The gradient of the table as integers and as numbers.
    table = 16 * field.encoding.table.numel() if hasattr(field, "encoding") else 0
    return point_bytes(field) * min(points, KEPT) + network + table + 16 * points


def gaussian_bytes(count: int, pixels: int) -> int:
    """Return what Gaussians take with gradients on an image or grid of so many pixels or voxels."""
    lists = min(F32 * count * (pixels // 64**2 + 1), BINS)
    return 300 * count + lists + F32 * 3 * pixels


def estimate(
    method: Method,
    grid: VolumeGrid,
    scan: ScanGeometry,
    *,
    weighted: bool = False,
    surrounded: bool = False,
    changed: Mapping[str, int] = MappingProxyType({}),
) -> Estimate:
    """Return what a method needs for a case on a CUDA device.

    Args:
        method: as configured. A prior that does not tell what its slices take (`repair_bytes`) counts with its weights
            alone.
        grid: of the volume.
        scan: of the projections.
        weighted: whether rays have weights.
        surrounded: whether what lies around the grid is estimated first, on as many voxels at most.
        changed: settings that are taken instead of the method's: reference_size, most_gaussians, batch_rays,
            batch_size.
    """
    voxels = math.prod(grid.shape)
    rays = len(scan) * math.prod(scan.detector_shape)
    if surrounded:
        needed = estimate(method, grid, scan, weighted=weighted, changed=changed)
        around = Part("surroundings", solver_bytes("weighted_tv", voxels, rays), False)
        return needed._replace(parts=(*needed.parts, around))
    given = Part("projections", F32 * rays * (3 if weighted else 1), True)
    if isinstance(method, Scene):
        return _scene(method, grid, scan, given, weighted, changed)
    if isinstance(method, Sampler):
        needed = sampler_estimate(method, grid, scan, changed.get("batch_size"))
        parts, operations = (given, *needed.parts), needed.operations
        if method.fits_representation:
            field = method.representation(grid)
            asked = F32 * 4 * voxels
            if isinstance(field, RayField):
                asked = points_bytes(field, voxels)
            parts += (Part("representation asked for all voxels", asked, False),)
            operations += option(method, "iterations") * _operations(field, 0, 0, voxels)
        return needed._replace(parts=parts, operations=operations)
    repairer = method.repairer if isinstance(method, Postprocessing) else None
    method = method.start if isinstance(method, Postprocessing) else method
    name = method.path if isinstance(method, Solver) else ""
    parts = (given, Part(f"solver {name}", solver_bytes(name, voxels, rays), False))
    if repairer is not None:
        at_once = changed.get("batch_size", repairer.batch_size)
        parts += (*_repair(repairer, grid, rays, weighted, at_once),)
    # A pass reads and writes a few volumes and every ray samples each slice twice.
    samples = rays * max(grid.shape)
    return Estimate(parts, _passes(method), 12 * F32 * voxels, 2 * 20 * samples)


def _passes(method: Method) -> int:
    """Return how often a method that is no optimisation goes over all views."""
    if not isinstance(method, Solver):
        return PASSES
    # The first volume of views that are far from a circle takes more.
    if not method.fits or method.path == "initial_volume":
        return 1
    known = inspect.signature(method.function).parameters
    usual = known["iterations"].default if "iterations" in known else None
    return method.options.get("iterations") or (usual if isinstance(usual, int) else PASSES)


def _scene(
    method: Scene,
    grid: VolumeGrid,
    scan: ScanGeometry,
    given: Part,
    weighted: bool,
    changed: Mapping[str, int],
) -> Estimate:
    """Return what an optimisation needs, that of its prior included.

    Args:
        method: as configured.
        grid: of the volume.
        scan: of the projections.
        given: what the measured projections take.
        weighted: whether rays have weights.
        changed: settings that are taken instead of the method's, see `estimate`.
    """
    voxels = math.prod(grid.shape)
    rays = len(scan) * math.prod(scan.detector_shape)
    representation = method.representation(grid)
    module = method.optimisation(representation, scan, grid, 0)
    numbers = sum(p.numel() for p in representation.parameters())
    count = getattr(representation, "num_gaussians", 0)
    most = count
    if count and method.density_control is not None:
        most = max(
            count, changed.get("most_gaussians", method.density_control.limits.most_gaussians)
        )
        numbers = numbers * most // count
    pixels = math.prod(scan.detector_shape)
    if method.rays is not None:
        pixels = min(pixels, method.rays.rows * method.rays.columns)
    pixels = changed.get("batch_rays", pixels * min(method.views, len(scan)))
    cube = min(module.tv_size**3, voxels) if module.lambda_tv else 0
    edge = changed.get("reference_size", module.reference_size)
    compared = min(edge**3, voxels) if edge else voxels
    if method.pseudo_reference is None:
        compared = 0
    parts = [
        given,
        Part("first volume", F32 * voxels, True),
        Part("parameters, gradients and Adam", 4 * F32 * numbers, True),
        Part(f"start: {method.start.name}", solver_bytes(method.start.name, voxels, rays), False),
        _step(representation, most, pixels, cube, compared, module),
        Part("query of the volume", F32 * 3 * voxels, False),
    ]
    if method.pseudo_reference is not None:
        repairer = method.pseudo_reference.repairer
        at_once = changed.get("batch_size", repairer.batch_size)
        parts.append(Part("pseudo-reference and what it was made of", 3 * F32 * voxels, True))
        parts += _repair(repairer, grid, rays, weighted, at_once)
    if method.finish == "settle":
        parts.append(Part("settling", settling_bytes(voxels, rays), False))
    if method.repaired_projections is not None:
        parts += _projection_repair(method.repaired_projections, scan)
    asked = cube + compared / module.reference_every
    moved = 7 * F32 * numbers + 48 * 3 * asked + 60 * pixels
    return Estimate(
        tuple(parts), method.iterations, moved, _operations(representation, count, pixels, asked)
    )


def _repair(
    repairer: Repairer | DdsRepairer, grid: VolumeGrid, rays: int, weighted: bool, at_once: int
) -> list[Part]:
    """Return what a repair takes of so many slices at once, and what is said of it beside three volumes.

    The network lies on the device while it is asked, and no longer.
    """
    voxels = math.prod(grid.shape)
    visible = visible_bytes(voxels, rays)
    told = Part("evidence: what the prior changed", 3 * F32 * voxels + visible, False)
    if isinstance(repairer, DdsRepairer):
        needed = sampling_bytes("dds", repairer.denoiser, grid, rays, at_once)
        steps = needed.denoiser + needed.kept + max(needed.fitted, needed.asked)
        return [Part("repair: steps of DDS", steps, False), told]
    prior = repairer.prior
    weights = sum(p.numel() * p.element_size() for p in prior.parameters())
    slices = slices_bytes(prior, grid.shape, repairer.planes, at_once)
    held = 0
    if repairer.consistency == "agreement" and weighted:
        held = agreement_bytes(DIRECTIONS, voxels, rays)
    elif repairer.consistency == "null_space":
        held = visible
    elif repairer.consistency != "none" or repairer.align_iterations:
        held = solver_bytes("sirt", voxels, rays)
    # The volume before and after, the residual and its noise stay through a pass.
    return [
        Part("repair: residual", 8 * F32 * voxels + 12 * F32 * rays, False),
        Part("repair: slices at once", weights + 8 * F32 * voxels + slices, False),
        Part("repair: held to the projections", 4 * F32 * voxels + held, False),
        told,
    ]


def _projection_repair(callback: RepairedProjections, scan: ScanGeometry) -> list[Part]:
    """Return what views between the measured ones take, and the repair of so many at once."""
    prior, shape = callback.repairer.prior, (len(scan), *scan.detector_shape)
    weights = sum(p.numel() * p.element_size() for p in prior.parameters())
    rays = math.prod(shape)
    at_once = slices_bytes(prior, shape, ("axial",), callback.repairer.batch_size)
    return [
        Part("views between the measured ones", len(callback.at) * F32 * rays, True),
        Part("repair: projections at once", weights + 4 * F32 * rays + at_once, False),
    ]


def _step(
    representation: Representation,
    count: int,
    pixels: int,
    cube: int,
    compared: int,
    module: SceneOptimization,
) -> Part:
    """Return what an iteration takes at most: a batch of rays, a cube and what is compared, kept together."""
    losses = ssim_2d_bytes(pixels) if module.lambda_ssim else 2 * F32 * pixels
    losses += variation_bytes(cube) + (ssim_3d_bytes(compared) if compared else 0)
    if isinstance(representation, GaussianCloud):
        views = gaussian_bytes(count, pixels)
        volumes = sum(gaussian_bytes(count, n) for n in (cube, compared) if n)
        return Part("iteration", views + volumes + losses, False)
    if isinstance(representation, RayField):
        points = pixels * representation.samples
        # Of rays everything is kept.
        views = point_bytes(representation) * points + points_bytes(representation, 0)
        volumes = sum(points_bytes(representation, n) for n in (cube, compared) if n)
        return Part("iteration", views + volumes + losses, False)
    voxels = sum(parameter.numel() for parameter in representation.parameters())
    return Part("iteration", F32 * 4 * voxels + losses, False)


def _operations(representation: Representation, count: int, pixels: int, asked: float) -> float:
    """Return the float32 operations of an iteration, forward and back."""
    if isinstance(representation, GaussianCloud):
        # At scales by the nearest neighbours, 50,000 Gaussians put 220 on a pixel and 10 on a voxel of 128^3.
        crowd = (count / 50_000) ** (1 / 3)
        return 60 * (220 * crowd * pixels + 10 * asked)
    if isinstance(representation, RayField):
        weights = sum(p.numel() for n, p in representation.named_parameters() if "table" not in n)
        return 6 * weights * (pixels * representation.samples + 2 * asked)
    return 40 * pixels * max(representation.grid.shape)
