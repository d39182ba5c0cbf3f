"""What a run has cost so far: seconds and memory, over all processes that worked on it."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


class ResourceUse:
    """Measure seconds and peak memory of a run, over all processes that worked on it.

    A process may make several runs, as a sweep does: the peak is counted from the beginning of each
    on Linux, and from the beginning of the process on systems that cannot reset it.

    Attributes:
        earlier_seconds: of the processes before this one, up to the checkpoint that was taken up.
        earlier_peak_mb: their peak memory.
        earlier_gpu_peak_mb: their peak memory on a GPU.
    """

    def __init__(self) -> None:
        self.earlier_seconds = 0.0
        self.earlier_peak_mb = 0.0
        self.earlier_gpu_peak_mb = 0.0
        self._started = time.monotonic()
        _reset_peaks()

    @property
    def seconds(self) -> float:
        """Seconds of work up to now.

        What was lost between a checkpoint and a kill is not in them; what a resumed run does again before it takes its
        checkpoint up, such as the volume that an optimisation starts from, is in them each time.
        """
        return self.earlier_seconds + time.monotonic() - self._started

    @property
    def peak_memory_mb(self) -> float:
        """Largest resident memory of the process in MB."""
        # Linux counts in KB, macOS in bytes.
        unit = 2**20 if sys.platform == "darwin" else 2**10
        here = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
        return max(self.earlier_peak_mb, here)

    @property
    def peak_gpu_memory_mb(self) -> float:
        """Largest memory of tensors on the current GPU in MB, 0 where none was used."""
        import torch

        here = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
        return max(self.earlier_gpu_peak_mb, here)

    def as_metrics(self) -> dict[str, float]:
        """Return what ``metrics.json`` says of it; GPU memory where a GPU was used."""
        metrics = {"seconds": round(self.seconds, 2), "peak_memory_mb": round(self.peak_memory_mb)}
        if peak := self.peak_gpu_memory_mb:
            metrics["peak_gpu_memory_mb"] = round(peak)
        return metrics

    def kept(self) -> dict[str, float]:
        """Return what travels with a checkpoint."""
        return {
            "seconds": self.seconds,
            "peak_memory_mb": self.peak_memory_mb,
            "peak_gpu_memory_mb": self.peak_gpu_memory_mb,
        }

    def take_up(self, kept: Mapping[str, float]) -> None:
        """Add what the run had cost up to a checkpoint.

        Args:
            kept: what `kept` returned then; an earlier version knew no GPU memory.
        """
        self.earlier_seconds = kept["seconds"]
        self.earlier_peak_mb = kept["peak_memory_mb"]
        self.earlier_gpu_peak_mb = kept.get("peak_gpu_memory_mb", 0.0)


def _reset_peaks() -> None:
    import torch

    # A run on the CPU must not wake CUDA: processes forked later could not use it.
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        # 5 sets the peak of resident memory back to what is resident now (man 5 proc).
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
