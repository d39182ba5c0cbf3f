"""How an optimisation came to its end: loss and, where the truth is known, PSNR over the batches."""

from __future__ import annotations

import math
from typing import Any

import lightning
import torch
from torch import Tensor

from diffnr_lightning.callbacks.run_length import batches_of, is_last_batch
from diffnr_lightning.callbacks.slice_images import log_picture
from diffnr_lightning.callbacks.volume_picture import draw_middle_slices
from diffnr_lightning.protocol_metrics import VolumePsnr


class Convergence(lightning.Callback):
    """Keep mean loss and PSNR at evenly spaced batches; they go to the Trainer's loggers too, with a picture.

    Args:
        truth: (Z, Y, X) the volume that is wanted; None leaves the PSNR out.
        part: slices (Z, Y, X) of the optimised volume that the truth is of; None is all of it.
        points: how many batches are looked at, or up to twice as many where they do not divide those of the run; the
            last is among them. None are in a run of which nobody knows how long it is.

    Attributes:
        history: "iteration", "loss" and "psnr", each a list with one number for every point.

    Raises:
        ValueError: no point.
    """

    def __init__(
        self,
        truth: Tensor | None = None,
        part: tuple[slice, slice, slice] | None = None,
        points: int = 10,
    ) -> None:
        if points < 1:
            raise ValueError(f"points is {points}; at least one is expected.")
        self.truth = truth
        self.part = part or (slice(None),) * 3
        self.points = points
        self.history: dict[str, list[float]] = {}
        self._loss, self._batches = torch.zeros(()), 0
        self._psnr = VolumePsnr()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Add to the mean loss, and note a point where one is due.

        Raises:
            ValueError: a loss or a volume with NaN or infinite values at a point.
        """
        # Summed on the device: reading a loss waits for it.
        self._loss = self._loss.to(outputs["loss"].device) + outputs["loss"].detach()
        self._batches += 1
        between = batches_of(trainer)
        if math.isfinite(between):
            between = max(1, between // self.points)
        if not is_last_batch(trainer) and pl_module.iteration % between:
            return
        point = {"loss": float(self._loss) / self._batches}
        volume = None
        if self.truth is not None or trainer.loggers:
            with torch.no_grad():
                volume = pl_module.query_volume()[self.part].cpu()
        _refuse_diverged(pl_module.iteration, point["loss"], volume)
        if self.truth is not None:
            self._psnr.reset()
            self._psnr.update(volume, self.truth)
            point["psnr"] = self._psnr.compute()["psnr"].item()
        self._loss, self._batches = torch.zeros(()), 0
        for name, value in {"iteration": pl_module.iteration, **point}.items():
            self.history.setdefault(name, []).append(value)
        for logger in trainer.loggers:
            logger.log_metrics(point, step=pl_module.iteration)
            log_picture(
                logger, draw_middle_slices(volume, self.truth), pl_module.iteration, "volume"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the points and the loss since the last one."""
        return {"history": self.history, "loss": self._loss.cpu(), "batches": self._batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up an interrupted run."""
        self.history = state_dict["history"]
        self._loss, self._batches = state_dict["loss"], state_dict["batches"]


def _refuse_diverged(iteration: int, loss: float, volume: Tensor | None) -> None:
    if math.isfinite(loss) and (volume is None or bool(volume.isfinite().all())):
        return
    raise ValueError(
        f"the optimisation has diverged by iteration {iteration}, with a mean loss of {loss:g} and NaN or infinite "
        "values where finite ones are expected; lower its rates."
    )
