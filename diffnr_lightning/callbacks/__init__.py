"""What happens beside an optimisation: density control, pseudo-references, records, pictures."""

from diffnr_lightning.callbacks.convergence import Convergence
from diffnr_lightning.callbacks.density_control import DensityControl
from diffnr_lightning.callbacks.pseudo_reference import PseudoReference
from diffnr_lightning.callbacks.slice_images import SliceImages
from diffnr_lightning.callbacks.snapshots import Snapshots

__all__ = ["Convergence", "DensityControl", "PseudoReference", "SliceImages", "Snapshots"]
