"""Poses as 3 x 4 projection matrices, which calibrations of C-arms and RTK's files hold."""

from __future__ import annotations

import numpy as np

from diffnr_lightning.geometry.scan import ScanGeometry


def projection_matrices(scan: ScanGeometry) -> np.ndarray:
    """Return the matrices (V, 3, 4) of a cone beam, which map points to pixels.

    A homogeneous point (x, y, z, 1) in mm becomes (column, row, 1) times its depth; columns and rows are counted from
    0 at the centre of the first pixel, and the depth is 1 on the detector.

    Raises:
        ValueError: a parallel beam.
    """
    if scan.beam != "cone":
        raise ValueError("the scan has parallel rays; projection matrices are of cone beams.")
    rows, columns = scan.detector_shape
    first = scan.detector_mm - 0.5 * (rows - 1) * scan.v_mm - 0.5 * (columns - 1) * scan.u_mm
    # From (column, row, 1) to what lies from the source to the pixel.
    to_pixel = np.stack([scan.u_mm, scan.v_mm, first - scan.source_mm], axis=2)
    turned = np.linalg.inv(to_pixel)  # (V, 3, 3)
    moved = -np.einsum("vij,vj->vi", turned, scan.source_mm)
    return np.concatenate([turned, moved[:, :, None]], axis=2)


def from_projection_matrices(
    matrices: np.ndarray, detector_shape: tuple[int, int], pixel_mm: float
) -> ScanGeometry:
    """Build a cone-beam scan from projection matrices; inverse of `projection_matrices`.

    Args:
        matrices: (V, 3, 4), each up to a factor; the origin of the world lies before the source.
        detector_shape: rows and columns (H, W).
        pixel_mm: pitch of the columns, which matrices do not know; it says how far away the detector stands.

    Raises:
        ValueError: another shape, a matrix that maps to no image, or a source at the origin.
    """
    matrices = np.asarray(matrices, dtype=np.float64)
    if matrices.ndim != 3 or matrices.shape[1:] != (3, 4):
        raise ValueError(f"matrices has shape {matrices.shape}; (views, 3, 4) is expected.")
    if not (np.isfinite(matrices).all() and (np.linalg.det(matrices[:, :, :3]) != 0).all()):
        raise ValueError(
            "a projection matrix has NaN, or no inverse of its first three columns; those of a cone beam are expected."
        )
    depth = matrices[:, 2, 3]
    if (depth == 0).any():
        raise ValueError(
            f"the projection matrix of view {int((depth == 0).argmax())} has its source beside the origin, which no "
            "detector then shows; the object is expected around the origin of the world."
        )
    matrices = matrices * np.sign(depth)[:, None, None]
    to_pixel = np.linalg.inv(matrices[:, :, :3])
    source = -np.einsum("vij,vj->vi", to_pixel, matrices[:, :, 3])
    to_pixel *= pixel_mm / np.linalg.norm(to_pixel[:, :, 0], axis=1)[:, None, None]
    u, v, first = np.moveaxis(to_pixel, 2, 0)
    rows, columns = detector_shape
    detector = source + first + 0.5 * (columns - 1) * u + 0.5 * (rows - 1) * v
    return ScanGeometry("cone", detector_shape, source, detector, u, v)
