"""Pictures of a few held-out slices while a prior is finetuned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import numpy as np
from lightning.pytorch.loggers import Logger
from numpy.typing import NDArray
from torch import Tensor

from diffnr_lightning.files import replacing
from diffnr_lightning.metrics import psnr

PANELS = ("degraded", "repaired", "clean")
INCHES = 2.4
DOTS_PER_INCH = 100
MOST_DB = 100.0


class SliceImages(lightning.Callback):
    """Draw the same held-out slices after every validation: degraded, repaired, clean and error.

    The slices are spread evenly over the validation batches. Each validation writes
    `slices_<iteration>.png`, whole or not at all, and hands the picture to the loggers that take
    images (`log_image` of the logger, or `add_image` of its experiment).

    Args:
        folder: of the pictures, created if missing.
        slices: how many slices are drawn.
        error_window: error (repaired minus clean) shown in the strongest colour; slices span [0, 1].

    Raises:
        ValueError: no slice, or a window that is not positive.
    """

    def __init__(self, folder: Path, slices: int = 4, error_window: float = 0.1) -> None:
        if slices < 1 or not error_window > 0:
            raise ValueError(
                f"SliceImages got slices={slices}, error_window={error_window}; expected at least "
                "one slice and a window above 0."
            )
        self.folder = Path(folder)
        self.slices = slices
        self.error_window = error_window
        self._rows: list[dict[str, NDArray[np.float32]]] = []

    def on_validation_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Forget the slices of the validation before, which may have been broken off."""
        self._rows = []

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the chosen slices of the batch.

        Raises:
            ValueError: `validation_step` does not return the slices.
        """
        if trainer.sanity_checking or not trainer.is_global_zero or dataloader_idx:
            return
        if not isinstance(outputs, dict) or not set(PANELS) <= outputs.keys():
            raise ValueError(
                f"SliceImages got {type(outputs).__name__} from validation_step of "
                f"{type(pl_module).__name__}; expected a dictionary with {', '.join(PANELS)}, each "
                "(N, H, W)."
            )
        count = len(outputs[PANELS[0]])
        for place in self._places(trainer.num_val_batches[0], batch_idx):
            index = min(int(place * count), count - 1)
            self._rows.append({name: _array(outputs[name][index]) for name in PANELS})

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Write the picture and hand it to the loggers."""
        if not self._rows:
            return
        picture = draw_slices(self._rows, self.error_window)
        with replacing(self.folder / f"slices_{pl_module.iteration:07d}.png") as path:
            _write_png(path, picture)
        for logger in trainer.loggers:
            log_picture(logger, picture, pl_module.iteration)
        self._rows = []

    def _places(self, batches: float, batch_idx: int) -> list[float]:
        """Where in a batch the slices to draw lie, 0 first and 1 last.

        The middles of `slices` equal parts of all batches; loaders without an end give the middle
        slice of each of the first batches.
        """
        if not np.isfinite(batches):
            return [0.5] if batch_idx < self.slices else []
        places = [(row + 0.5) * batches / self.slices for row in range(self.slices)]
        return [place - batch_idx for place in places if int(place) == batch_idx]


def draw_slices(
    rows: list[dict[str, NDArray[np.float32]]], error_window: float = 0.1
) -> NDArray[np.uint8]:
    """Draw one row for each slice: degraded, repaired, clean, error with its colours.

    Args:
        rows: degraded, repaired and clean slices (H, W) in [0, 1]; rows may differ in size.
        error_window: error (repaired minus clean) shown in the strongest colour.

    Returns:
        (height, width, 3) picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not pyplot: it would keep the figure, and choose a backend for the whole process.
    figure = Figure(
        figsize=((len(PANELS) + 1.25) * INCHES, len(rows) * (INCHES + 0.25)),
        dpi=DOTS_PER_INCH,
        layout="constrained",
    )
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(PANELS) + 1, squeeze=False)
    for row, across in zip(rows, axes, strict=True):
        for name, panel in zip(PANELS, across, strict=False):
            panel.imshow(row[name], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            score = "" if name == "clean" else f" {_score(row[name], row['clean']):.1f} dB"
            panel.set_title(name + score, fontsize=8)
        error = across[-1].imshow(
            row["repaired"] - row["clean"],
            cmap="RdBu_r",
            vmin=-error_window,
            vmax=error_window,
            interpolation="nearest",
        )
        across[-1].set_title("repaired - clean", fontsize=8)
        figure.colorbar(error, ax=across[-1], shrink=0.8).ax.tick_params(labelsize=6)
    for panel in axes.flat:
        panel.set_axis_off()
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def log_picture(
    logger: Logger, picture: NDArray[np.uint8], iteration: int, name: str = "val_slices"
) -> None:
    """Hand a picture to a logger that takes images; others are left alone.

    Args:
        logger: one with `log_image(key, images, step)`, as of Weights & Biases, or whose experiment
            has `add_image(tag, image, step, dataformats)`, as of TensorBoard.
        picture: (height, width, 3) uint8.
        iteration: batches done.
        name: of the picture.
    """
    if hasattr(logger, "log_image"):
        logger.log_image(name, [picture], step=iteration)
    elif hasattr(getattr(logger, "experiment", None), "add_image"):
        logger.experiment.add_image(name, picture, iteration, dataformats="HWC")


def _write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    from matplotlib.image import imsave

    imsave(path, picture)


def _array(image: Tensor) -> NDArray[np.float32]:
    return image.detach().float().cpu().numpy()


def _score(image: NDArray[np.float32], clean: NDArray[np.float32]) -> float:
    return psnr(float(np.square(image - clean).mean(dtype=np.float64)), most=MOST_DB)
