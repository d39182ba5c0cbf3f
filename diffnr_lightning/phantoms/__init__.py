"""Generated objects: chests of drawn patients, specimens of other materials, and ellipsoids."""

from diffnr_lightning.phantoms.canvas import Phantom
from diffnr_lightning.phantoms.chest import chest
from diffnr_lightning.phantoms.ellipsoids import ellipsoids
from diffnr_lightning.phantoms.specimen import specimen

__all__ = ["Phantom", "chest", "ellipsoids", "specimen"]
