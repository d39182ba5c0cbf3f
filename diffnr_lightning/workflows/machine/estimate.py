"""What a reconstruction needs, as predicted, and what the solvers do."""

from __future__ import annotations

from typing import NamedTuple

from diffnr_lightning.triton_kernels import Card

F32 = 4
MIB = 2**20

SOLVERS = {
    "analytic": (1.9, 25),
    "fdk": (1.9, 25),
    "fbp": (1.9, 25),
    "initial_volume": (6.1, 25),
    "sirt": (6.1, 4.8),
    "sart": (11, 11),
    "asd_pocs": (11, 12),
    "weighted_tv": (16.5, 4.5),
    "cgls": (8.3, 6.7),
    "fista_tv": (21, 6.3),
    "sbtv": (28, 4.2),
    "mbir": (12.5, 6.8),
}
"""Volumes and sets of projections that a solver holds at its worst moment, beside its measured projections.

Analytic ones hold 25 sets where the object reaches beyond the detector, since rows are continued, and 9 elsewhere."""

OTHER_SOLVER = (16.5, 12)
CONTEXT = 600 * MIB
"""What CUDA, cuBLAS and the compiled kernels take of a device, beside all tensors."""
MARGIN = 1.15
"""For the gaps that torch's allocator leaves."""
SHARE = 0.25
"""Of a card's peak rates that is expected to be had."""
STEP_SECONDS = 1.5e-3
"""Of an iteration however small: some hundred launches and Lightning's part."""


class Part(NamedTuple):
    """What one thing needs.

    Attributes:
        name: of the thing.
        bytes: that it needs.
        stays: whether through the run; else at its moment only.
    """

    name: str
    bytes: int
    stays: bool


class Estimate(NamedTuple):
    """What a reconstruction needs, as predicted.

    Attributes:
        parts: of the memory.
        iterations: of an optimisation, or passes of a solver.
        moved: bytes that an iteration moves.
        operations: float32 operations of an iteration.
    """

    parts: tuple[Part, ...]
    iterations: int
    moved: float
    operations: float

    @property
    def peak(self) -> int:
        """Bytes of the device at the worst moment."""
        moments = [part.bytes for part in self.parts if not part.stays]
        return int(MARGIN * (sum(p.bytes for p in self.parts if p.stays) + max(moments))) + CONTEXT

    def seconds(self, card: Card) -> float:
        """Time on a card, roughly."""
        step = max(self.moved / card.bytes_per_s, self.operations / card.flops_per_s) / SHARE
        return self.iterations * (STEP_SECONDS + step)


def visible_bytes(voxels: int, rays: int, directions: int = 15) -> int:
    """Return what `consistency.visible_part` takes with so many directions, each of which is a volume."""
    return F32 * ((directions + 5) * voxels + 7 * rays)


def solver_bytes(name: str, voxels: int, rays: int) -> int:
    """Return what a solver holds at its worst moment, beside its measured projections."""
    volumes, projections = SOLVERS.get(name, OTHER_SOLVER)
    return int(F32 * (volumes * voxels + projections * rays))


def settling_bytes(voxels: int, rays: int) -> int:
    """Return what `settled` takes: its solver with the dual variable of the differences, and the sum of both."""
    return solver_bytes("weighted_tv", voxels, rays) + 7 * F32 * voxels
