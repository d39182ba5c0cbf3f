"""Smooth deformation of volumes, so that a prior learns more shapes than there are volumes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from diffnr_lightning.lazy import deferred

LoadedVolume = deferred("diffnr_lightning.data.volumes.LoadedVolume")

# Meshes of the cubic B-splines, (x, y, z): displacements change along an edge of the volume within a seventh across and
# a third along z, as a body's outline does.
MESH = (7, 7, 3)
ORDER = 3
MOST_WARP = 0.06
"""Share of an edge by which control points may move in one standard deviation: no further does anything fold."""


def warped(
    loaded: LoadedVolume, share: float, stretch: float, generator: np.random.Generator
) -> LoadedVolume:
    """Deform a volume smoothly within its axial planes.

    Nothing moves along z, nor at the edges of a plane: a face that cuts through the body stays as flat as scanners
    leave it, and what lies outside of the volume is not needed. Values are interpolated by cubic B-splines, which
    keep edges about as sharp as they are, and kept within those of the volume.

    Args:
        loaded: the volume.
        share: standard deviation of the displacements of control points, as a share of the plane's edge along which
            they move; 0 moves nothing.
        stretch: factor on the voxels' edges along y, and one over it on those along x.
        generator: of the displacements; it is not asked where nothing moves.
    """
    _, rows, columns = loaded.spacing_mm
    spacing = (loaded.spacing_mm[0], rows * stretch, columns / stretch)
    if not share:
        return replace(loaded, spacing_mm=spacing)

    import SimpleITK

    image = SimpleITK.GetImageFromArray(loaded.array)
    transform = SimpleITK.BSplineTransformInitializer(image, list(MESH), ORDER)
    points = tuple(n + ORDER for n in MESH)
    moved = np.zeros((3, *points[::-1]))
    # The first and the last three control points along x and y reach what lies at the edges.
    free = (slice(None), slice(ORDER, -ORDER), slice(ORDER, -ORDER))
    for axis, edge in enumerate(image.GetSize()[:2]):
        moved[axis][free] = generator.normal(0, share * edge, moved[axis][free].shape)
    transform.SetParameters(moved.ravel().tolist())
    result = SimpleITK.Resample(image, image, transform, SimpleITK.sitkBSpline)
    array = np.clip(SimpleITK.GetArrayFromImage(result), loaded.array.min(), loaded.array.max())
    return replace(loaded, array=array, spacing_mm=spacing)
