"""Analytic reconstruction: FDK for cone beam, filtered backprojection for parallel beam.

Source: L. A. Feldkamp, L. C. Davis, J. W. Kress, "Practical cone-beam algorithm", JOSA A 1984;
A. C. Kak, M. Slaney, "Principles of Computerized Tomographic Imaging", 1988, sections 3.3 and 3.6.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from diffnr_lightning.geometry import Orbit, ScanGeometry, VolumeGrid, arc_length, view_steps
from diffnr_lightning.projectors import weighted_backproject
from diffnr_lightning.solvers.redundancy import ray_weights

Filter = Literal["ram_lak", "shepp_logan", "cosine", "hamming", "hann"]

_LOG = logging.getLogger("diffnr")
_FILTERED_AT_ONCE = 1 << 23  # padded detector samples in the Fourier domain: 64 MB


def analytic(
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    *,
    filter: Filter = "hann",  # noqa: A002 -- the field's word for it
    cutoff: float = 1.0,
) -> Tensor:
    """Reconstruct with the analytic method of the scan: `fdk` for cone, `fbp` for parallel.

    Args:
        projections: (V, H, W) line integrals in unit times mm.
        grid: voxels of the volume that is wanted.
        scan: a circular scan.
        filter: window of the ramp filter.
        cutoff: where the window ends, as a fraction of the Nyquist frequency, in (0, 1].

    Returns:
        (Z, Y, X) in unit; not clipped, so it may be negative.

    Raises:
        ValueError: a scan that is not circular, wrong shapes, an unknown filter or a cutoff
            outside (0, 1].
    """
    method = fdk if scan.beam == "cone" else fbp
    return method(projections, grid, scan, filter=filter, cutoff=cutoff)


def fdk(
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    *,
    filter: Filter = "hann",  # noqa: A002
    cutoff: float = 1.0,
) -> Tensor:
    """Reconstruct a circular cone-beam scan with the algorithm of Feldkamp, Davis and Kress.

    Views may be spaced unevenly. An arc short of the circle and a detector shifted sideways get the
    weights of `redundancy`, so that a uniform object keeps its value.

    Args:
        projections: (V, H, W) line integrals in unit times mm.
        grid: voxels of the volume that is wanted.
        scan: a circular cone-beam scan.
        filter: window of the ramp filter.
        cutoff: where the window ends, as a fraction of the Nyquist frequency, in (0, 1].

    Returns:
        (Z, Y, X) in unit; not clipped.

    Raises:
        ValueError: a scan that is not circular or not cone beam, wrong shapes, an unknown filter or
            a cutoff outside (0, 1].
    """
    orbit = _circular(scan, "cone", "fdk")
    _check_shape(projections, scan)
    projections, scan, edges = _centred_detector(projections, scan, orbit)
    steps, closed = view_steps(orbit.angles_rad, 2 * np.pi)
    u, v = _detector_axes(scan)
    distance = orbit.source_to_detector_mm
    fan = np.arctan2(u, distance)
    weights = ray_weights(orbit.angles_rad, fan, u, edges, steps, closed) * steps[:, None]
    needed = np.pi + 2.0 * np.abs(fan).max()
    if arc_length(steps) < needed - 1e-6:
        _LOG.warning(
            "fdk: the views cover %.0f degrees, %.0f are needed for every line: expect streaks.",
            np.rad2deg(arc_length(steps)),
            np.rad2deg(needed),
        )
    cosine = distance / np.sqrt(distance**2 + u[None, :] ** 2 + v[:, None] ** 2)  # (H, W)
    # On the detector scaled down to the rotation axis, where FDK's formula filters.
    pitch = orbit.pixel_mm[1] * orbit.source_to_axis_mm / distance
    filtered = _filter_rows(projections, weights, cosine, pitch, filter, cutoff)
    return weighted_backproject(filtered, grid, scan)


def fbp(
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    *,
    filter: Filter = "hann",  # noqa: A002
    cutoff: float = 1.0,
) -> Tensor:
    """Reconstruct a parallel-beam scan over 180 or 360 degrees by filtered backprojection.

    Opposite views are one measurement: angles are taken modulo 180 degrees and every view weighs
    half of the gap to its neighbours. With a detector shifted sideways the full circle is needed
    instead, and opposite columns share their weight.

    Args:
        projections: (V, H, W) line integrals in unit times mm.
        grid: voxels of the volume that is wanted.
        scan: a circular parallel-beam scan.
        filter: window of the ramp filter.
        cutoff: where the window ends, as a fraction of the Nyquist frequency, in (0, 1].

    Returns:
        (Z, Y, X) in unit; not clipped.

    Raises:
        ValueError: a scan that is not circular or not parallel beam, wrong shapes, an unknown
            filter or a cutoff outside (0, 1].
    """
    orbit = _circular(scan, "parallel", "fbp")
    _check_shape(projections, scan)
    projections, scan, edges = _centred_detector(projections, scan, orbit)
    u, _ = _detector_axes(scan)
    if edges is None:
        steps, _ = view_steps(orbit.angles_rad, np.pi)
        shares = np.ones((len(scan), len(u)))
    else:
        steps, closed = view_steps(orbit.angles_rad, 2 * np.pi)
        shares = ray_weights(orbit.angles_rad, np.zeros_like(u), u, edges, steps, closed)
    if arc_length(steps) < np.pi - 1e-6:
        _LOG.warning(
            "fbp: the views cover %.0f degrees, 180 are needed for every line: expect streaks.",
            np.rad2deg(arc_length(steps)),
        )
    ones = np.ones(scan.detector_shape)
    filtered = _filter_rows(
        projections, shares * steps[:, None], ones, orbit.pixel_mm[1], filter, cutoff
    )
    return weighted_backproject(filtered, grid, scan)


def ramp_filter(length: int, pitch: float, filter: Filter, cutoff: float) -> Tensor:  # noqa: A002
    """Return the windowed ramp (length // 2 + 1,) for `rfft` of rows zero-padded to ``length``.

    The ramp is the transform of its band-limited kernel, not ``|f|`` itself, whose zero at f = 0
    would shift the level of the volume.

    Args:
        length: padded number of samples, even.
        pitch: spacing of the samples in mm.
        filter: window.
        cutoff: where the window ends, as a fraction of the Nyquist frequency.

    Raises:
        ValueError: an unknown filter or a cutoff outside (0, 1].
    """
    if not 0.0 < cutoff <= 1.0:
        raise ValueError(f"cutoff is {cutoff}; a fraction of Nyquist in (0, 1] is expected.")
    n = torch.fft.fftfreq(length, d=1.0 / length, dtype=torch.float64)  # 0, 1, ..., -1
    kernel = torch.zeros(length, dtype=torch.float64)
    odd = n.abs() % 2 == 1
    kernel[odd] = -1.0 / (torch.pi * n[odd] * pitch) ** 2
    kernel[0] = 1.0 / (4.0 * pitch**2)
    ramp = torch.fft.rfft(kernel).real * pitch
    f = torch.linspace(0.0, 1.0, length // 2 + 1, dtype=torch.float64) / cutoff
    if filter == "ram_lak":
        window = torch.ones_like(f)
    elif filter == "shepp_logan":
        window = torch.sinc(0.5 * f)
    elif filter == "cosine":
        window = torch.cos(0.5 * torch.pi * f)
    elif filter == "hamming":
        window = 0.54 + 0.46 * torch.cos(torch.pi * f)
    elif filter == "hann":
        window = 0.5 + 0.5 * torch.cos(torch.pi * f)
    else:
        raise ValueError(
            f"filter is {filter!r}; ram_lak, shepp_logan, cosine, hamming or hann is expected."
        )
    return ramp * torch.where(f <= 1.0, window, 0.0)


def _filter_rows(
    projections: Tensor,
    weights: np.ndarray,
    cosine: np.ndarray,
    pitch: float,
    filter: Filter,  # noqa: A002
    cutoff: float,
) -> Tensor:
    """Weight the projections by (V, W) and (H, W) and filter them along u."""
    views, rows, columns = projections.shape
    length = 1 << (2 * columns - 1).bit_length()
    dtype, device = projections.dtype, projections.device
    response = ramp_filter(length, pitch, filter, cutoff).to(device=device, dtype=dtype)
    by_column = torch.tensor(weights, device=device, dtype=dtype)
    by_pixel = torch.tensor(cosine, device=device, dtype=dtype)
    out = torch.empty_like(projections, memory_format=torch.contiguous_format)
    at_once = max(1, _FILTERED_AT_ONCE // (rows * length))
    for part in torch.arange(views).split(at_once):
        weighted = projections[part].detach() * by_pixel * by_column[part, None, :]
        spectrum = torch.fft.rfft(weighted, n=length) * response
        out[part] = torch.fft.irfft(spectrum, n=length)[..., :columns]
    return out


def _centred_detector(
    projections: Tensor, scan: ScanGeometry, orbit: Orbit
) -> tuple[Tensor, ScanGeometry, tuple[float, float] | None]:
    """Extend a detector that is shifted sideways with columns of zeros, until it is centred.

    The ramp filter spreads the weighted rows beyond the near edge of the detector; those tails
    belong to the sum.

    Returns:
        projections and scan, extended where needed, and the ends of the real detector in mm from
        the central ray, or None if it is centred.
    """
    pitch = orbit.pixel_mm[1]
    half, shift = 0.5 * scan.detector_shape[1] * pitch, orbit.detector_offset_mm[1]
    if abs(shift) < pitch:
        return projections, scan, None
    extra = math.ceil(2.0 * abs(shift) / pitch)
    before = extra if shift > 0 else 0
    padded = torch.nn.functional.pad(projections.detach(), (before, extra - before))
    shape = (scan.detector_shape[0], scan.detector_shape[1] + extra)
    moved = (0.5 * extra - before) * scan.u_mm
    wide = replace(scan, detector_shape=shape, detector_mm=scan.detector_mm + moved)
    if scan.beam == "parallel":  # source and detector centre define the direction of the rays
        wide = replace(wide, source_mm=scan.source_mm + moved)
    return padded, wide, (shift - half, shift + half)


def _detector_axes(scan: ScanGeometry) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions (W,) and (H,) of columns and rows from the central ray in mm."""
    orbit = scan.orbit
    rows, columns = scan.detector_shape
    u = (np.arange(columns) - 0.5 * (columns - 1)) * orbit.pixel_mm[1] + orbit.detector_offset_mm[1]
    v = (np.arange(rows) - 0.5 * (rows - 1)) * orbit.pixel_mm[0] + orbit.detector_offset_mm[0]
    return u, v


def _circular(scan: ScanGeometry, beam: str, method: str) -> Orbit:
    if scan.beam != beam:
        raise ValueError(f"{method} was given a {scan.beam} scan; a {beam} scan is expected.")
    orbit = scan.orbit
    if orbit is None:
        raise ValueError(
            f"{method} was given a scan that is not circular (about z, rows along z); "
            "use sirt, sart or asd_pocs, which take any poses."
        )
    return orbit


def _check_shape(projections: Tensor, scan: ScanGeometry) -> None:
    expected = (len(scan), *scan.detector_shape)
    if tuple(projections.shape) != expected:
        raise ValueError(
            f"projections have shape {tuple(projections.shape)}; {expected} (V, H, W) is expected."
        )
