"""Simulated scans: a volume, a scanner and noise make a case."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict

import numpy as np
import torch

from diffnr_lightning.data.cases import Case
from diffnr_lightning.data.field_of_view import Fit, fit_cube
from diffnr_lightning.data.noise import Noise, attenuation_scale, photon_noise, tigre_noise
from diffnr_lightning.data.resampling import resample
from diffnr_lightning.data.scanner import Layout, Scanner, view_angles
from diffnr_lightning.data.volumes import LoadedVolume
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.projectors import project

LOGGER = logging.getLogger("diffnr")
AIR_HU = -1000.0
# Normalised attenuation below this is air: it neither widens the simulated object nor stops a scan.
OBJECT_FLOOR = 0.02
# 2 GB of float32: the object is simulated on coarser voxels where it would need more.
MOST_FINE_VOXELS = 512**3
# Streams of random numbers of one case; views, test views and noise do not disturb each other.
VIEW_STREAM, TEST_STREAM, NOISE_STREAM = range(3)
STANDARD_SCANNER = Scanner()
STANDARD_NOISE = Noise()


def simulate_case(
    loaded: LoadedVolume,
    *,
    size: int = 128,
    num_views: int = 24,
    layout: Layout = "uniform",
    arc_deg: float | None = None,
    start_deg: float = 0.0,
    fit: Fit = "volume",
    voxel_mm: float | None = None,
    margin: float = 0.05,
    window_hu: tuple[float, float] = (-1000.0, 1024.0),
    scanner: Scanner = STANDARD_SCANNER,
    noise: Noise = STANDARD_NOISE,
    test_views: int = 16,
    oversampling: int = 2,
    attenuate_outside: bool = True,
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
        size: voxels of the cube along each edge.
        num_views: training views, at least two.
        layout: ``"uniform"`` spreads the views evenly over the circle (half of it for parallel
            beam), ``"random"`` draws them there, ``"limited_arc"`` spreads them over `arc_deg`.
        arc_deg: the arc of the views; None means 360 degrees for cone beam, 180 for parallel beam.
        start_deg: where the arc begins.
        fit: ``"volume"`` reconstructs a cube around the whole volume, ``"body"`` one around its
            largest connected piece of tissue (above -500 HU; above Otsu's threshold where the
            unit is arbitrary).
        voxel_mm: edge of the reconstructed voxels; the cube keeps the centre that `fit` gives it.
        margin: air on every side of the body, as a share of the edge of its tightest cube.
        window_hu: HU that become 0 and 1; values outside are clipped. A volume in arbitrary unit
            is windowed from its smallest to its largest value instead.
        scanner: distances and detector.
        noise: photons and read-out noise of the training views.
        test_views: noise-free views at random angles, kept for evaluation; 0 for none.
        oversampling: how much finer voxels and pixels of the simulation are.
        attenuate_outside: whether what lies outside the cube attenuates too, as it really does.
        name: name of the case; None takes the volume's.
        seed: of random views and noise; None takes a hash of name and number of views.

    Returns:
        The case, with everything that made it in its provenance.

    Raises:
        ValueError: arguments that make no scan, each named in the message.
    """
    _check(size, num_views, layout, arc_deg, test_views, oversampling, margin, voxel_mm)
    name = name or loaded.name
    seed = stable_seed(name, num_views) if seed is None else int(seed)
    density, window = _normalised(loaded, window_hu)
    centre, side = fit_cube(loaded, fit, margin)  # (z, y, x) relative to the volume's centre
    if voxel_mm is not None:
        side = size * voxel_mm
    grid = VolumeGrid((size,) * 3, side / size)
    truth = resample(density, loaded.spacing_mm, grid.shape, grid.voxel_mm, centre)
    if float(truth.max()) < OBJECT_FLOOR:
        raise ValueError(
            f"{name}: the reconstructed cube of {side:.0f} mm holds nothing but air; check fit, "
            "voxel_mm and the window."
        )
    circle = 360.0 if scanner.beam == "cone" else 180.0
    span = circle if arc_deg is None else arc_deg
    pixels = scanner.detector_pixels or size
    view_stream = np.random.default_rng([seed, VIEW_STREAM])
    angles = view_angles(layout, num_views, span, start_deg, view_stream)
    scan = scanner.scan(angles, side, pixels)
    drawn = np.random.default_rng([seed, TEST_STREAM]).uniform(0, np.deg2rad(circle), test_views)
    test_scan = scanner.scan(np.sort(drawn), side, pixels) if test_views else None
    fine, fine_grid = _simulated_object(
        density, loaded.spacing_mm, centre, grid, scan, oversampling, attenuate_outside
    )
    exact = _project_finely(fine, fine_grid, scan, oversampling)
    projections = _noisy(exact, scan.detector_shape, noise, loaded.unit, window, seed)
    test_projections = None
    if test_scan is not None:
        held_out = _project_finely(fine, fine_grid, test_scan, oversampling)
        test_projections = torch.from_numpy(_binned(held_out, oversampling))
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
            "window": list(window),
            "fit": fit,
            "margin": margin,
            "views": {"layout": layout, "arc_deg": span, "start_deg": start_deg},
            "scanner": asdict(scanner),
            "noise": asdict(noise),
            "oversampling": oversampling,
            "simulated_voxel_mm": list(fine_grid.voxel_mm),
            "attenuate_outside": attenuate_outside,
            "frame_origin_mm": [float(c) for c in offset],
            "frame_direction": list(loaded.direction),
        },
    )


def stable_seed(name: str, num_views: int) -> int:
    """Return a seed that depends on the name and number of views alone, on every machine."""
    digest = hashlib.sha256(f"{name}/{num_views}".encode()).digest()
    return int.from_bytes(digest[:6], "big")


def _check(
    size: int,
    num_views: int,
    layout: str,
    arc_deg: float | None,
    test_views: int,
    oversampling: int,
    margin: float,
    voxel_mm: float | None,
) -> None:
    if size < 8:
        raise ValueError(f"size is {size}; a cube of at least 8 voxels a side is expected.")
    if num_views < 2:
        raise ValueError(f"num_views is {num_views}; at least two views are expected.")
    if layout not in ("uniform", "random", "limited_arc"):
        raise ValueError(f"layout is {layout!r}; 'uniform', 'random' or 'limited_arc' is expected.")
    if layout == "limited_arc" and arc_deg is None:
        raise ValueError("layout is 'limited_arc' without arc_deg; say how many degrees it spans.")
    if arc_deg is not None and not 0 < arc_deg <= 360:
        raise ValueError(f"arc_deg is {arc_deg}; a number in (0, 360] is expected.")
    if test_views < 0:
        raise ValueError(f"test_views is {test_views}; zero or a positive number is expected.")
    if oversampling < 1:
        raise ValueError(f"oversampling is {oversampling}; one or more is expected.")
    if not 0 <= margin < np.inf:
        raise ValueError(f"margin is {margin}; zero or a positive share is expected.")
    if voxel_mm is not None and not 0 < voxel_mm < np.inf:
        raise ValueError(f"voxel_mm is {voxel_mm}; a positive length is expected.")


def _normalised(
    loaded: LoadedVolume, window_hu: tuple[float, float]
) -> tuple[np.ndarray, tuple[float, float]]:
    """Return normalised attenuation (Z, Y, X) in [0, 1] and the values of its ends."""
    if loaded.unit == "HU":
        low, high = (float(bound) for bound in window_hu)
        if not AIR_HU <= low < high:
            raise ValueError(
                f"window_hu is ({low:g}, {high:g}); low < high with low not below air (-1000 HU) "
                "is expected."
            )
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
