"""Generated objects: chests of drawn patients, and specimens of other materials."""

from diffnr_lightning.phantoms.canvas import Phantom
from diffnr_lightning.phantoms.chest import chest
from diffnr_lightning.phantoms.specimen import specimen

__all__ = ["Phantom", "chest", "specimen"]
