"""Scans whose views were calibrated one by one."""

from dataclasses import replace

import numpy as np

from diffnr_lightning.geometry import ScanGeometry


def rotation(vectors: np.ndarray) -> np.ndarray:
    """Matrices (V, 3, 3) of the turns about vectors (V, 3), in radians (Rodrigues)."""
    angle = np.linalg.norm(vectors, axis=1)[:, None, None]
    x, y, z = (vectors / np.maximum(angle[:, 0], 1e-300)).T
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(-1, 3, 3)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def calibrated(
    scan: ScanGeometry, millimetres: float, degrees: float, seed: int = 0
) -> ScanGeometry:
    """Every view displaced and its detector turned, by normal deviates of these sizes."""
    rng = np.random.default_rng(seed)
    turn = rotation(np.deg2rad(degrees) * rng.normal(size=(len(scan), 3)))
    return replace(
        scan,
        source_mm=scan.source_mm + millimetres * rng.normal(size=(len(scan), 3)),
        detector_mm=scan.detector_mm + millimetres * rng.normal(size=(len(scan), 3)),
        u_mm=np.einsum("vij,vj->vi", turn, scan.u_mm),
        v_mm=np.einsum("vij,vj->vi", turn, scan.v_mm),
    )
