"""A reconstruction while it runs: what is drawn and told of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger
    from torch import Tensor

    from diffnr_lightning.data import Case
    from diffnr_lightning.workflows.runs.run_folder import RunFolder

PREVIEW = "preview.png"


class OngoingRun(NamedTuple):
    """What is reconstructed, and who is told of it.

    Attributes:
        folder: of the run, opened.
        case: what is reconstructed.
        case_path: where it lies.
        label: of the method, as in tables.
        inner: what of the grid is kept, as slices (Z, Y, X).
        progress: called with (done, total, text).
        curves: Lightning logger, or None.
        checkpoint_every: batches between two checkpoints of an optimisation.
    """

    folder: RunFolder
    case: Case
    case_path: Path
    label: str
    inner: tuple[slice, slice, slice]
    progress: Callable[[int, int, str], None]
    curves: Logger | None
    checkpoint_every: int

    def draw(self, volume: Tensor) -> None:
        """Write the preview of a volume (Z, Y, X) of the kept grid, beside the true one where it is known."""
        from diffnr_lightning.files import replacing
        from diffnr_lightning.reports import preview

        truth = None if self.case.volume is None else self.case.volume.numpy()
        with replacing(self.folder.path / PREVIEW) as part:
            preview(volume.numpy(), truth, part, self.case.grid.voxel_mm, self.label)

    def log_preview(self, step: int) -> None:
        """Hand the preview to the logger, where there is one.

        Args:
            step: iterations done.
        """
        from diffnr_lightning.workflows.runs.run_logger import log_preview

        if self.curves is not None:
            log_preview(self.curves, self.folder.path / PREVIEW, step)

    def show(self, estimate: Tensor, step: int) -> None:
        """Draw and log an estimate of the volume while it is made.

        Args:
            estimate: (Z, Y, X) of the whole grid.
            step: iterations done.
        """
        self.draw(estimate[self.inner].cpu())
        self.log_preview(step)
