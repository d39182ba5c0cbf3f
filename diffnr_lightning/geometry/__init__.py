"""Scan and grid as immutable values: where the source, the detector and the voxels are.

Conventions, everywhere in the package: world points are ``(x, y, z)`` in millimetres; volumes are
arrays ``(Z, Y, X)`` whose indices grow with +z, +y and +x; projections are arrays ``(V, H, W)``, view
by row by column, with H along the rotation axis. Row 0 of a circular scan is the top (+z).
``notebooks/geometry_conventions.py`` draws them.
"""

from diffnr_lightning.geometry.angles import arc, arc_length, uniform_angles, view_steps
from diffnr_lightning.geometry.between import views_between
from diffnr_lightning.geometry.converters import (
    astra_vectors,
    from_astra_vectors,
    from_r2_scanner,
    r2_scanner,
)
from diffnr_lightning.geometry.grid import VolumeGrid
from diffnr_lightning.geometry.orbit import NominalOrbit, Orbit, nominal_orbit
from diffnr_lightning.geometry.orientation import DetectorOrientation
from diffnr_lightning.geometry.poses import Beam
from diffnr_lightning.geometry.projection_matrices import (
    from_projection_matrices,
    projection_matrices,
)
from diffnr_lightning.geometry.scan import ScanGeometry, remembered
from diffnr_lightning.geometry.visibility import check_scan_sees_grid

__all__ = [
    "Beam",
    "DetectorOrientation",
    "NominalOrbit",
    "Orbit",
    "ScanGeometry",
    "VolumeGrid",
    "arc",
    "arc_length",
    "astra_vectors",
    "check_scan_sees_grid",
    "from_astra_vectors",
    "from_projection_matrices",
    "from_r2_scanner",
    "nominal_orbit",
    "projection_matrices",
    "remembered",
    "r2_scanner",
    "uniform_angles",
    "view_steps",
    "views_between",
]
