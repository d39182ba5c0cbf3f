"""Simulated scans: a volume, a scanner and noise make a case."""

from __future__ import annotations

import hashlib
import logging

import numpy as np
import torch

from diffnr_lightning.data.cases import Case
from diffnr_lightning.data.field_of_view import fit_cube
from diffnr_lightning.data.noise import Noise, attenuation_scale, photon_noise, tigre_noise
from diffnr_lightning.data.resampling import resample
from diffnr_lightning.data.scan_recipe import ScanRecipe, simulation_record
from diffnr_lightning.data.scanner import view_angles
from diffnr_lightning.data.volumes import LoadedVolume
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.projectors import project

LOGGER = logging.getLogger("diffnr")
# Normalised attenuation below this is air: it neither widens the simulated object nor stops a scan.
OBJECT_FLOOR = 0.02
# 2 GB of float32: the object is simulated on coarser voxels where it would need more.
MOST_FINE_VOXELS = 512**3
# Streams of random numbers of one case; views, test views and noise do not disturb each other.
VIEW_STREAM, TEST_STREAM, NOISE_STREAM = range(3)
STANDARD_RECIPE = ScanRecipe()


def simulate_case(
    loaded: LoadedVolume,
    recipe: ScanRecipe = STANDARD_RECIPE,
    name: str | None = None,
    seed: int | None = None,
) -> Case:
    """Scan a volume: fit a cube to it, project it from a finer grid, add noise.

    The volume is windowed to normalised attenuation (0 and 1 at the ends of the window), projected
    from voxels `oversampling` times finer than the reconstructed ones onto pixels finer by the
    same factor, which are then averaged: no inverse crime. The true volume of the case is the mean
    of the source over each reconstructed voxel. The cube is centred on the rotation axis.

    Args:
        loaded: the volume.
        recipe: cube, views, scanner and noise; its `unit` and `spacing_mm` are the reader's.
        name: name of the case; None takes the volume's.
        seed: of random views and noise; None takes a hash of name and number of views.

    Returns:
        The case, with everything that made it in its provenance.

    Raises:
        ValueError: a recipe that makes no scan of this volume.
    """
    record = simulation_record(recipe, loaded.source, name, seed)
    name = name or loaded.name
    seed = stable_seed(name, recipe.num_views) if seed is None else int(seed)
    density, window = _normalised(loaded, recipe.window_hu)
    centre, side = fit_cube(loaded, recipe.fit, recipe.margin)  # relative to the volume's centre
    if recipe.voxel_mm is not None:
        side = recipe.size * recipe.voxel_mm
    grid = VolumeGrid((recipe.size,) * 3, side / recipe.size)
    truth = resample(density, loaded.spacing_mm, grid.shape, grid.voxel_mm, centre)
    if float(truth.max()) < OBJECT_FLOOR:
        raise ValueError(
            f"{name}: the reconstructed cube of {side:.0f} mm holds nothing but air; check fit, "
            "voxel_mm and the window."
        )
    scan, test_scan, span = _scans(recipe, side, seed)
    fine, fine_grid = _simulated_object(
        density,
        loaded.spacing_mm,
        centre,
        grid,
        scan,
        recipe.oversampling,
        recipe.attenuate_outside,
    )
    exact = _project_finely(fine, fine_grid, scan, recipe.oversampling)
    projections = _noisy(exact, scan.detector_shape, recipe.noise, loaded.unit, window, seed)
    test_projections = None
    if test_scan is not None:
        held_out = _project_finely(fine, fine_grid, test_scan, recipe.oversampling)
        test_projections = torch.from_numpy(_binned(held_out, recipe.oversampling))
    offset = np.reshape(loaded.direction, (3, 3)) @ centre[::-1] + loaded.centre_mm
    return Case(
        name=name,
        scan=scan,
        projections=torch.from_numpy(projections),
        grid=grid,
        test_scan=test_scan,
        test_projections=test_projections,
        volume=torch.from_numpy(truth),
        window_hu=window if loaded.unit == "HU" else None,
        unit=loaded.unit,
        seed=seed,
        source=loaded.source,
        provenance={
            "kind": "simulated",
            "simulation": record,
            "window": list(window),
            "views": {"layout": recipe.layout, "arc_deg": span, "start_deg": recipe.start_deg},
            "simulated_voxel_mm": list(fine_grid.voxel_mm),
            "frame_origin_mm": [float(c) for c in offset],
            "frame_direction": list(loaded.direction),
        },
    )


def stable_seed(name: str, num_views: int) -> int:
    """Return a seed that depends on the name and number of views alone, on every machine."""
    digest = hashlib.sha256(f"{name}/{num_views}".encode()).digest()
    return int.from_bytes(digest[:6], "big")


def _scans(
    recipe: ScanRecipe, side_mm: float, seed: int
) -> tuple[ScanGeometry, ScanGeometry | None, float]:
    """Return the training views, the views kept for evaluation, and the arc in degrees."""
    circle = 360.0 if recipe.scanner.beam == "cone" else 180.0
    span = circle if recipe.arc_deg is None else recipe.arc_deg
    pixels = recipe.scanner.detector_pixels or recipe.size
    angles = view_angles(
        recipe.layout,
        recipe.num_views,
        span,
        recipe.start_deg,
        np.random.default_rng([seed, VIEW_STREAM]),
    )
    scan = recipe.scanner.scan(angles, side_mm, pixels)
    if not recipe.test_views:
        return scan, None, span
    generator = np.random.default_rng([seed, TEST_STREAM])
    drawn = generator.uniform(0, np.deg2rad(circle), recipe.test_views)
    return scan, recipe.scanner.scan(np.sort(drawn), side_mm, pixels), span


def _normalised(
    loaded: LoadedVolume, window_hu: tuple[float, float]
) -> tuple[np.ndarray, tuple[float, float]]:
    """Return normalised attenuation (Z, Y, X) in [0, 1] and the values of its ends."""
    if loaded.unit == "HU":
        low, high = (float(bound) for bound in window_hu)
    else:
        low, high = float(loaded.array.min()), float(loaded.array.max())
    density = np.clip((loaded.array - low) / (high - low), 0, 1).astype(np.float32)
    if not density.any():
        raise ValueError(
            f"{loaded.name}: no voxel lies above the window ({low:g}, {high:g}); check the window "
            "and the unit."
        )
    return density, (low, high)


def _simulated_object(
    density: np.ndarray,
    spacing_mm: tuple[float, float, float],
    centre_mm: tuple[float, float, float],
    grid: VolumeGrid,
    scan: ScanGeometry,
    oversampling: int,
    attenuate_outside: bool,
) -> tuple[torch.Tensor, VolumeGrid]:
    """Resample the object finely, in the frame of the scan; returns volume and its grid."""
    low, high = (np.asarray(corner)[::-1] for corner in grid.corners_mm)
    if attenuate_outside:
        first, last = _occupied_box(density)
        half = 0.5 * np.asarray(density.shape)
        low = (first - half) * spacing_mm - centre_mm
        high = (last - half) * spacing_mm - centre_mm
        _check_clearance(density, spacing_mm, centre_mm, scan)
        reach = _visible_height(scan, np.hypot(*np.maximum(abs(low), abs(high))[1:]))
        low[0], high[0] = max(low[0], -reach), min(high[0], reach)
    extent = high - low
    voxel = max(grid.voxel_mm) / oversampling
    if np.prod(extent / voxel) > MOST_FINE_VOXELS:
        voxel = float(np.cbrt(np.prod(extent) / MOST_FINE_VOXELS))
        LOGGER.warning(
            "the object of %s mm is too large for voxels of %.2f mm; it is simulated with %.2f mm",
            "x".join(f"{e:.0f}" for e in extent), max(grid.voxel_mm) / oversampling, voxel,
        )  # fmt: skip
    shape = tuple(int(n) for n in np.ceil(extent / voxel - 1e-6))
    middle = 0.5 * (low + high)
    offset = tuple((middle + centre_mm).tolist())
    fine = resample(density, spacing_mm, shape, (voxel,) * 3, offset)
    return torch.from_numpy(fine), VolumeGrid(shape, voxel, tuple(middle[::-1].tolist()))


def _occupied_box(density: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return first and one-past-last voxel (z, y, x) of everything that attenuates."""
    occupied = [np.flatnonzero(density.max(axis=others) > 0) for others in ((1, 2), (0, 2), (0, 1))]
    return np.array([o[0] for o in occupied]), np.array([o[-1] + 1 for o in occupied])


def _visible_height(scan: ScanGeometry, radius_mm: float) -> float:
    """Return the largest |z| that any ray reaches within `radius_mm` of the axis."""
    half = 0.5 * scan.detector_shape[0] * float(np.linalg.norm(scan.v_mm[0]))
    orbit = scan.orbit
    if orbit.source_to_axis_mm is None:
        return half
    return half * min(1.0, (orbit.source_to_axis_mm + radius_mm) / orbit.source_to_detector_mm)


def _check_clearance(
    density: np.ndarray,
    spacing_mm: tuple[float, float, float],
    centre_mm: tuple[float, float, float],
    scan: ScanGeometry,
) -> None:
    """Refuse an orbit on which source or detector would run into the object."""
    orbit = scan.orbit
    if orbit.source_to_axis_mm is None:
        return
    y, x = np.nonzero(density.max(axis=0) > OBJECT_FLOOR)
    position_y = (y - 0.5 * (density.shape[1] - 1)) * spacing_mm[1] - centre_mm[1]
    position_x = (x - 0.5 * (density.shape[2] - 1)) * spacing_mm[2] - centre_mm[2]
    reach = float(np.hypot(position_y, position_x).max(initial=0.0))
    to_detector = orbit.source_to_detector_mm - orbit.source_to_axis_mm
    for part, distance in (("source", orbit.source_to_axis_mm), ("detector", to_detector)):
        if reach >= distance:
            raise ValueError(
                f"the {part} turns at {distance:.0f} mm from the axis, but the object reaches "
                f"{reach:.0f} mm; enlarge the scanner or voxel_mm, or set attenuate_outside=false."
            )


def _project_finely(
    fine: torch.Tensor, fine_grid: VolumeGrid, scan: ScanGeometry, oversampling: int
) -> np.ndarray:
    """Return noise-free line integrals (V, H * oversampling, W * oversampling)."""
    rows, columns = scan.detector_shape
    dense = ScanGeometry(
        scan.beam,
        (rows * oversampling, columns * oversampling),
        scan.source_mm,
        scan.detector_mm,
        scan.u_mm / oversampling,
        scan.v_mm / oversampling,
    )
    with torch.no_grad():
        return project(fine, fine_grid, dense).numpy()


def _binned(projections: np.ndarray, factor: int) -> np.ndarray:
    """Average blocks of factor x factor pixels, (V, H * factor, W * factor) -> (V, H, W)."""
    views, rows, columns = projections.shape
    blocks = projections.reshape(views, rows // factor, factor, columns // factor, factor)
    return blocks.mean(axis=(2, 4), dtype=np.float64).astype(np.float32)


def _noisy(
    exact: np.ndarray,
    detector_shape: tuple[int, int],
    noise: Noise,
    unit: str,
    window: tuple[float, float],
    seed: int,
) -> np.ndarray:
    """Average the fine pixels and add the noise; (V, H, W) float32 line integrals."""
    factor = exact.shape[1] // detector_shape[0]
    if not exact.max() > 0:
        raise ValueError("no ray meets the object; check the scanner's lengths and their unit.")
    if noise.mode == "none":
        return _binned(exact, factor)
    generator = np.random.default_rng([seed, NOISE_STREAM])
    if noise.mode == "tigre":
        return tigre_noise(_binned(exact, factor), noise, generator).astype(np.float32)
    scale = attenuation_scale(exact, noise, window if unit == "HU" else None)
    # A pixel collects photons, so what it averages is their number and not its logarithm.
    seen = -np.log(_binned_intensity(exact * scale, factor))
    return (photon_noise(seen, noise, generator) / scale).astype(np.float32)


def _binned_intensity(line_integrals: np.ndarray, factor: int) -> np.ndarray:
    views, rows, columns = line_integrals.shape
    shape = (views, rows // factor, factor, columns // factor, factor)
    return np.exp(-line_integrals.astype(np.float64)).reshape(shape).mean(axis=(2, 4))
