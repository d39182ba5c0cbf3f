"""The checkpoint of a sampler, from which a killed run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from diffnr_lightning.files import replacing
from diffnr_lightning.solvers.diffusion.sampler_state import SamplerState
from diffnr_lightning.workflows.methods.problem import MethodRecord, Problem, Progress
from diffnr_lightning.workflows.runs.run_folder import RunFolder

SECONDS = 60.0
"""Between two checkpoints, which take the time and the room of some volumes."""


class SamplerRecord(MethodRecord):
    """Keep the state of a sampler in the run folder, replaced in one step, and report progress.

    Args:
        run: its folder; what it has cost travels with the checkpoint.
        progress: called with (steps done, steps in all, text).
        show: called with each estimate (Z, Y, X) that is kept and the steps done.

    Attributes:
        state: what the sampler fills; that of the checkpoint where there is one.

    Raises:
        ValueError: the checkpoint is damaged.
    """

    def __init__(
        self,
        run: RunFolder,
        progress: Progress | None = None,
        show: Callable[[Tensor, int], None] | None = None,
    ) -> None:
        self.run, self.progress, self.show = run, progress, show
        kept = run.kept("sampler", "seconds", "peak_memory_mb")
        self.state: SamplerState = {} if kept is None else kept["sampler"]
        if kept is not None:
            run.use.take_up(kept)
        self._kept_at = time.monotonic()

    @property
    def steps(self) -> int:
        """Steps done."""
        return self.state.get("done", 0)

    def watched(self, problem: Problem) -> Problem:
        """Return the problem with the state to go on from, of which this one is told."""
        return problem._replace(progress=self, state=self.state)

    def __call__(self, done: int, total: int, text: str) -> None:
        """Write the checkpoint where it is due, and report progress."""
        if self.state and time.monotonic() >= self._kept_at + SECONDS:
            self._keep()
            self._kept_at = time.monotonic()
        if self.progress:
            self.progress(done, total, text)

    def metrics(self) -> dict[str, float]:
        """Return how often the denoiser was asked for the whole volume, over all processes that worked on the run.

        Nothing where an earlier version, which did not count, began the run.
        """
        if "evaluations" not in self.state:
            return {}
        return {"evaluations": round(self.state["evaluations"], 2)}

    def finish(self) -> None:
        """Remove the checkpoint of a run whose results are written."""
        self.run.checkpoint.unlink(missing_ok=True)

    def _keep(self) -> None:
        with replacing(self.run.checkpoint) as part:
            try:
                torch.save({"sampler": self.state, **self.run.use.kept()}, part)
            except RuntimeError as error:  # what torch makes of a full disk
                raise ValueError(
                    f"checkpoint {self.run.checkpoint} cannot be written ({str(error).splitlines()[0]}); make room on "
                    "its disk, and the same command goes on."
                ) from error
        if self.show and "estimate" in self.state:
            self.show(self.state["estimate"], self.steps)
