"""What a trial found, kept with its run: a killed one goes on by that verdict, whatever a second trial would say."""

from __future__ import annotations

import json
from typing import NamedTuple

from diffnr_lightning.workflows.methods.trial import Verdict, tell
from diffnr_lightning.workflows.runs.run_folder import RunFolder

TRIAL = "trial.json"


class Judged(NamedTuple):
    """A verdict and what it took.

    Attributes:
        verdict: of the trial.
        evaluations: how often the trial asked a denoiser of several steps for the whole volume.
    """

    verdict: Verdict
    evaluations: float


class TrialRecord:
    """Keep what a trial found in the run folder, with what the run has cost up to then.

    Args:
        run: its folder.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def earlier(self) -> Judged | None:
        """Return what an earlier process of the run found, None where there is nothing; say it, and take up its cost.

        Raises:
            ValueError: a damaged file.
        """
        path = self.run.path / TRIAL
        if not path.is_file():
            return None
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            judged = Judged(Verdict(**kept["verdict"]), kept["evaluations"])
            self.run.use.take_up(kept["cost"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path} is damaged; remove it and the run's checkpoint to start the run again."
            ) from error
        tell(judged.verdict)
        return judged

    def keep(self, judged: Judged) -> None:
        """Write what was found."""
        kept = {"verdict": judged.verdict._asdict(), "evaluations": judged.evaluations}
        self.run.write_json(TRIAL, kept | {"cost": self.run.use.kept()})
