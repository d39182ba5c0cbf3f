"""Simulated scans: a volume, a scanner and noise make a case."""

from __future__ import annotations

import hashlib
import logging
from typing import NamedTuple

import numpy as np
import torch

from diffnr_lightning.data.cases import Case
from diffnr_lightning.data.field_of_view import NothingToScanError, fit_cube
from diffnr_lightning.data.noise import Noise, attenuation_scale, photon_noise, tigre_noise
from diffnr_lightning.data.resampling import resample
from diffnr_lightning.data.scan_recipe import AIR_HU, CUT_VOXELS, ScanRecipe, simulation_record
from diffnr_lightning.data.scanner import view_angles
from diffnr_lightning.data.simulated_object import (
    NO_RAY,
    OBJECT_FLOOR,
    binned,
    binned_intensity,
    fine_grid,
    fine_projections,
)
from diffnr_lightning.data.volumes import LoadedVolume
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.photons import PhotonCounts

LOGGER = logging.getLogger("diffnr")
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

    The true volume of the case is the volume in its window, normalised (0 and 1 at the ends) and
    averaged over each reconstructed voxel. It is projected from voxels `oversampling` times finer
    onto pixels finer by the same factor, which are then averaged: no inverse crime. The cube is
    centred on the rotation axis.

    A physical scanner sees all attenuation from air (-1000 HU) up, whatever the window: photons are
    counted behind that. The case's projections are the line integrals of the windowed density,
    which a method can explain, plus the error of the measurement in the same unit. Where the window
    clips nothing they are what was measured; elsewhere they are what was measured less the exact
    line integrals of what lies outside the window.

    Args:
        loaded: the volume.
        recipe: cube, views, scanner and noise; its `unit` and `spacing_mm` are the reader's.
        name: name of the case; None takes the volume's.
        seed: of random views and noise; None takes a hash of name and number of views.

    Returns:
        The case, with everything that made it in its provenance.

    Raises:
        NoClearanceError: the source or the detector would run into the object.
        NothingToScanError: there is no object, or no ray meets it.
        ValueError: another recipe that makes no scan of this volume.
    """
    if seed is not None and seed < 0:
        raise ValueError(f"seed is {seed}; a whole number of at least 0 is expected.")
    record = simulation_record(recipe, loaded.source, name, seed)
    name = name or loaded.name
    seed = stable_seed(name, recipe.num_views) if seed is None else int(seed)
    truth, grid, density, window, centre = normalised_cube(loaded, recipe)
    side = recipe.size * grid.voxel_mm[0]
    scans, span = _scans(recipe, side, seed)
    views, photons, fine = _scanned(loaded, density, window, centre, grid, scans, recipe, seed)
    offset = np.reshape(loaded.direction, (3, 3)) @ centre[::-1] + loaded.centre_mm
    return Case(
        name=name,
        scan=scans[0],
        projections=views[0],
        photons=photons,
        grid=grid,
        test_scan=scans[1] if recipe.test_views else None,
        test_projections=views[1] if recipe.test_views else None,
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
            "simulated_voxel_mm": list(fine.voxel_mm),
            CUT_VOXELS: "by share",
            "frame_origin_mm": [float(c) for c in offset],
            "frame_direction": list(loaded.direction),
        },
    )


def planned_geometry(recipe: ScanRecipe) -> tuple[VolumeGrid, ScanGeometry]:
    """Return voxels and training views of a scan before its volume is read, of which the shapes will be true.

    Voxels are 1 mm where the recipe leaves their edge to the volume.
    """
    edge = recipe.voxel_mm or 1.0
    return VolumeGrid(recipe.shape, edge), _scans(recipe, recipe.size * edge, 0)[0][0]


class NormalisedCube(NamedTuple):
    """What a recipe reconstructs of a volume.

    Attributes:
        truth: (Z, Y, X) float32 in [0, 1], the cube.
        grid: its voxels.
        density: (Z, Y, X) float32 in [0, 1], the whole volume on its own voxels.
        window: values of the volume that became 0 and 1.
        centre_mm: centre of the cube (z, y, x) relative to that of the volume.
    """

    truth: np.ndarray
    grid: VolumeGrid
    density: np.ndarray
    window: tuple[float, float]
    centre_mm: tuple[float, float, float]


def normalised_cube(loaded: LoadedVolume, recipe: ScanRecipe) -> NormalisedCube:
    """Return the true volume of the scans that a recipe makes.

    Args:
        loaded: the volume.
        recipe: its `size`, `slices`, `fit`, `margin`, `voxel_mm` and `window_hu` are used.

    Raises:
        NothingToScanError: nothing lies above the window, or in the cube.
        ValueError: voxels larger than the volume.
    """
    density, window = _normalised(loaded, recipe.window_hu)
    centre, side = fit_cube(loaded, recipe.fit, recipe.margin)  # relative to the volume's centre
    if recipe.voxel_mm is not None:
        side = recipe.size * recipe.voxel_mm
    grid = VolumeGrid(recipe.shape, side / recipe.size)
    extent = max(np.multiply(density.shape, loaded.spacing_mm))
    if grid.voxel_mm[0] > extent:
        raise ValueError(
            f"{loaded.name}: one voxel of the cube is {grid.voxel_mm[0]:.3g} mm wide and the whole volume "
            f"{extent:.3g} mm; check voxel_mm, margin and the spacing of the file."
        )
    truth = resample(density, loaded.spacing_mm, grid.shape, grid.voxel_mm, centre)
    if float(truth.max()) < OBJECT_FLOOR:
        raise NothingToScanError(
            f"{loaded.name}: the reconstructed cube of {side:.0f} mm holds nothing but air; check fit, "
            "voxel_mm and the window."
        )
    return NormalisedCube(truth, grid, density, window, centre)


def stable_seed(name: str, num_views: int) -> int:
    """Return a seed that depends on the name and number of views alone, on every machine."""
    digest = hashlib.sha256(f"{name}/{num_views}".encode()).digest()
    return int.from_bytes(digest[:6], "big")


def _scans(recipe: ScanRecipe, side_mm: float, seed: int) -> tuple[list[ScanGeometry], float]:
    """Return training views and, if any, those kept for evaluation; and the arc in degrees."""
    circle = 360.0 if recipe.scanner.beam == "cone" else 180.0
    span = circle if recipe.arc_deg is None else recipe.arc_deg
    pixels = recipe.scanner.columns(recipe.size)
    stream = np.random.default_rng([seed, VIEW_STREAM])
    angles = view_angles(recipe.layout, recipe.num_views, span, recipe.start_deg, stream)
    slab_mm = None if recipe.slices is None else side_mm * recipe.slices / recipe.size
    scans = [recipe.scanner.scan(angles, side_mm, pixels, slab_mm)]
    if recipe.test_views:
        stream = np.random.default_rng([seed, TEST_STREAM])
        drawn = np.sort(stream.uniform(0, np.deg2rad(circle), recipe.test_views))
        scans.append(recipe.scanner.scan(drawn, side_mm, pixels, slab_mm))
    return scans, span


def _scanned(
    loaded: LoadedVolume,
    density: np.ndarray,
    window: tuple[float, float],
    centre_mm: tuple[float, float, float],
    grid: VolumeGrid,
    scans: list[ScanGeometry],
    recipe: ScanRecipe,
    seed: int,
) -> tuple[list[torch.Tensor], PhotonCounts | None, VolumeGrid]:
    """Return projections (V, H, W) of each scan, the first one's noisy with its counts, and the fine voxels."""
    noise, finer = recipe.noise, recipe.oversampling
    attenuation = _attenuation(loaded, density, window)
    place = (loaded.spacing_mm, centre_mm)
    fine = fine_grid(attenuation, *place, grid, scans[0], finer, recipe.attenuate_outside)
    exact = fine_projections(density, *place, fine, scans, finer)
    if not exact[0].max() > 0:
        raise NothingToScanError(NO_RAY)
    passed, scale = exact[0], 1.0
    if noise.mode == "physical":
        if attenuation is not density:
            (passed,) = fine_projections(attenuation, *place, fine, scans[:1], finer)
        scale = attenuation_scale(passed, noise, window if loaded.unit == "HU" else None)
    views = [_on_pixels(line_integrals * scale, finer, noise) for line_integrals in exact]
    behind = views[0] if passed is exact[0] else _on_pixels(passed * scale, finer, noise)
    if not all(np.isfinite(view).all() for view in (*views, behind)):
        raise ValueError(
            f"{loaded.name}: no light passes it, as line integrals go up to {scale * float(passed.max()):.4g}; check "
            "the spacing and unit of the file (spacing_mm, unit), or choose noise mode none."
        )
    generator = np.random.default_rng([seed, NOISE_STREAM])
    views[0], photons = _measured(views[0], behind, noise, generator)
    tensors = [torch.from_numpy((view / scale).astype(np.float32)) for view in views]
    return tensors, None if photons is None else photons.in_units_of(scale), fine


def _normalised(
    loaded: LoadedVolume, window_hu: tuple[float, float]
) -> tuple[np.ndarray, tuple[float, float]]:
    """Return density (Z, Y, X) in [0, 1] and the values of its ends."""
    if loaded.unit == "HU":
        low, high = (float(bound) for bound in window_hu)
    else:
        low, high = float(loaded.array.min()), float(loaded.array.max())
        if low == high:
            raise NothingToScanError(
                f"{loaded.name}: every voxel is {low:g}; a volume that shows something is expected."
            )
    density = np.clip((loaded.array - low) / (high - low), 0, 1).astype(np.float32)
    if not density.any():
        raise NothingToScanError(
            f"{loaded.name}: no voxel lies above the window ({low:g}, {high:g}); check the window "
            "and the unit."
        )
    _report_clipped(loaded, high)
    return density, (low, high)


def _report_clipped(loaded: LoadedVolume, high: float) -> None:
    """Say how much of a volume lies above the window, and which window would hold it."""
    highest = float(loaded.array.max())
    if highest <= high:
        return
    LOGGER.warning(
        "%s: %.3g %% of the voxels lie above the window and are clipped from up to %.0f to %.0f HU "
        "(a window_hu of %.0f %d holds them all)",
        loaded.name, 100 * float(np.mean(loaded.array > high)), highest, high, AIR_HU,
        int(np.ceil(highest)),
    )  # fmt: skip


def _attenuation(
    loaded: LoadedVolume, density: np.ndarray, window: tuple[float, float]
) -> np.ndarray:
    """Return what photons are counted behind, (Z, Y, X) in widths of the window.

    It goes from air up and is not clipped; where the window clips nothing it is the density.
    """
    low, high = window
    if loaded.unit != "HU" or (low == AIR_HU and float(loaded.array.max()) <= high):
        return density
    return np.maximum((loaded.array - AIR_HU) / (high - low), 0).astype(np.float32)


def _on_pixels(exact: np.ndarray, finer: int, noise: Noise) -> np.ndarray:
    """Average fine pixels (V, H * finer, W * finer) to (V, H, W), as photons do where counted."""
    return (binned_intensity if noise.mode == "physical" else binned)(exact, finer)


def _measured(
    signal: np.ndarray, behind: np.ndarray, noise: Noise, generator: np.random.Generator
) -> tuple[np.ndarray, PhotonCounts | None]:
    """Return the signal (V, H, W) with the error of a measurement of the line integrals `behind`, and its counts.

    What the signal does not show of `behind` dims the beam that counts as air.
    """
    if noise.mode == "none":
        return signal, None
    counted = photon_noise if noise.mode == "physical" else tigre_noise
    measured = counted(behind, noise, generator)
    air = np.full((1, 1, 1), noise.photons)
    if behind is not signal:
        air = noise.photons * np.exp(signal - behind)
        measured = measured._replace(line_integrals=signal + (measured.line_integrals - behind))
    counts, air = (torch.from_numpy(a.astype(np.float32)) for a in (measured.counts, air))
    photons = PhotonCounts(counts, air, noise.electronic, measured.scale)
    return measured.line_integrals, photons
