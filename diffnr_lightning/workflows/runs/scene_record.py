"""Checkpoint, verdict and convergence of an optimisation, from which a killed run goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffnr_lightning.callbacks import Convergence
from diffnr_lightning.callbacks.run_record import RunRecord
from diffnr_lightning.priors import stored_features
from diffnr_lightning.workflows.methods.problem import MethodRecord, Problem
from diffnr_lightning.workflows.runs.ongoing_run import OngoingRun
from diffnr_lightning.workflows.runs.trial_record import TrialRecord


class SceneRecord(MethodRecord):
    """Let Lightning keep an optimisation in the run folder, and note how it converges.

    Args:
        run: that is kept.
        iterations: returns how many batches the result is of, which a trial may decide.
    """

    def __init__(self, run: OngoingRun, iterations: Callable[[], int]) -> None:
        self.run = run
        self._iterations = iterations
        self.convergence = Convergence(run.case.volume, run.inner)

    @property
    def steps(self) -> int:
        """Batches that the result is of."""
        return self._iterations()

    def watched(self, problem: Problem) -> Problem:
        """Return the problem with checkpoint, trial, callbacks, logger, and the features that came with the case.

        Raises:
            ValueError: the checkpoint is damaged.
        """
        folder = self.run.folder
        kept = RunRecord(
            folder.checkpoint, self.run.checkpoint_every, folder.use, self.run.progress
        )
        return problem._replace(
            checkpoint=folder.resume_from(),
            callbacks=(self.convergence, kept),
            curves=self.run.curves,
            features=stored_features(self.run.case_path),
            trial=TrialRecord(folder),
        )

    def metrics(self) -> dict[str, Any]:
        """Return the number of iterations, and loss and PSNR over them."""
        return {"iterations": self.steps, "history": self.convergence.history}
