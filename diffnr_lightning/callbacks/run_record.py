"""Checkpoints of a run that survive a kill, and what the run has cost so far."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import lightning
import torch

from diffnr_lightning.files import replacing

# A loss is read from the device only now and then: reading it waits for the device.
BATCHES_BETWEEN_PROGRESS = 10


class ResourceUse:
    """Measure seconds and peak memory of a run, over all processes that worked on it.

    A process may make several runs, as a sweep does: the peak is counted from the beginning of each
    on Linux, and from the beginning of the process on systems that cannot reset it.

    Attributes:
        earlier_seconds: of the processes before this one, up to the checkpoint that was taken up.
        earlier_peak_mb: their peak memory.
    """

    def __init__(self) -> None:
        self.earlier_seconds = 0.0
        self.earlier_peak_mb = 0.0
        self._started = time.monotonic()
        _reset_peaks()

    @property
    def seconds(self) -> float:
        """Seconds of work, without what was lost between a checkpoint and a kill."""
        return self.earlier_seconds + time.monotonic() - self._started

    @property
    def peak_memory_mb(self) -> float:
        """Largest resident memory of the process in MB."""
        # Linux counts in KB, macOS in bytes.
        unit = 2**20 if sys.platform == "darwin" else 2**10
        here = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
        return max(self.earlier_peak_mb, here)

    def as_metrics(self) -> dict[str, float]:
        """Return what ``metrics.json`` says of it; GPU memory where a GPU was used."""
        metrics = {"seconds": round(self.seconds, 2), "peak_memory_mb": round(self.peak_memory_mb)}
        if torch.cuda.is_available() and (peak := torch.cuda.max_memory_allocated()):
            metrics["peak_gpu_memory_mb"] = round(peak / 2**20)
        return metrics


def _reset_peaks() -> None:
    # A run on the CPU must not wake CUDA: processes forked later could not use it.
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        # 5 sets the peak of resident memory back to what is resident now (man 5 proc).
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


class RunRecord(lightning.Callback):
    """Keep one checkpoint, replaced every `every` batches in one step, and report progress.

    It must be the last of the callbacks: its checkpoint then holds what the others did after the
    batch.

    Args:
        checkpoint: file of the checkpoint.
        every: batches between two checkpoints; the last batch is always kept.
        use: what the run has cost; its counters travel with the checkpoint.
        progress: called with (batches done, batches in all, text).

    Raises:
        ValueError: `every` is less than one.
    """

    def __init__(
        self,
        checkpoint: Path,
        every: int = 500,
        use: ResourceUse | None = None,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> None:
        if every < 1:
            raise ValueError(
                f"every is {every}; at least one batch between two checkpoints is expected."
            )
        self.checkpoint = checkpoint
        self.every = every
        self.use = use or ResourceUse()
        self.progress = progress

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write the checkpoint and report progress where they are due."""
        # Not the steps: several optimisers, or batches that add up to one step, count otherwise.
        total = getattr(trainer.datamodule, "iterations", trainer.max_steps)
        last = trainer.global_step >= trainer.max_steps
        if last or pl_module.iteration % self.every == 0:
            # All processes take part, the first one writes.
            with replacing(self.checkpoint) if trainer.is_global_zero else nullcontext() as path:
                trainer.save_checkpoint(path or self.checkpoint)
        if self.progress and (last or pl_module.iteration % BATCHES_BETWEEN_PROGRESS == 0):
            self.progress(pl_module.iteration, total, _loss_text(outputs))

    def state_dict(self) -> dict[str, Any]:
        """Return what the run has cost up to now."""
        return {"seconds": self.use.seconds, "peak_memory_mb": self.use.peak_memory_mb}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Add what the run had cost up to the checkpoint."""
        self.use.earlier_seconds = state_dict["seconds"]
        self.use.earlier_peak_mb = state_dict["peak_memory_mb"]


def _loss_text(outputs: Any) -> str:
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    return f"loss {float(loss):.4g}" if isinstance(loss, torch.Tensor) else ""
