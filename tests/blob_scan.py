"""A blob, its projections from eight views, and a prior that can only halve."""

import torch

from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.projectors import project

GRID = VolumeGrid((10, 12, 14), 2.0)
SCAN = ScanGeometry.cone(
    angles_rad=uniform_angles(8),
    source_to_axis_mm=70.0,
    source_to_detector_mm=100.0,
    detector_shape=(16, 16),
    pixel_mm=2.4,
)
TRUTH = torch.exp(-0.5 * (GRID.points() / torch.tensor([6.0, 4.0, 5.0])).square().sum(-1))
PROJECTIONS = project(TRUTH, GRID, SCAN)


class Halving(torch.nn.Module):
    """A prior that halves slices, and remembers planes, batches and numbers of views."""

    context, size, biplanar_size, residual = 0, None, 64, False

    def __init__(self):
        super().__init__()
        self.calls = []

    def repair(self, slices, conditioning):
        self.calls.append((int(conditioning.plane[0]), len(slices), float(conditioning.views[0])))
        return 0.5 * slices[:, 0]
