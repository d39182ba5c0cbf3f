"""A trial of the prior on measured views that a first fit does not see."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from diffnr_lightning.consistency import misfit
from diffnr_lightning.workflows.methods.problem import Problem

logger = logging.getLogger("diffnr")


class Candidates(NamedTuple):
    """Volumes (Z, Y, X) among which a trial chooses.

    Attributes:
        start: what the representation starts from.
        fit: what would be repaired of the representation, fitted without the prior.
        repair: what is made of that, as at the end of a reconstruction.
    """

    start: Tensor
    fit: Tensor
    repair: Tensor


class Verdict(NamedTuple):
    """What a trial found: mean square errors of the held-out projections, by the weights of their rays.

    Attributes:
        start: of the volume that the representation starts from.
        before: of the fit without the prior.
        after: of the repaired fit.
        chosen: `repair`, `fit` or `start`: what predicts them best; a repair may be worse by the factor of the trial.
    """

    start: float
    before: float
    after: float
    chosen: Literal["repair", "fit", "start"]


class Trial:
    """Let measured views judge whether the prior fits the object.

    The scene is fitted briefly, without the prior, to all views but a few. The prior repairs that volume, and the
    result is finished as a reconstruction is. If that predicts the views that were left out worse than the fit or what
    the fit started from, the prior invents what is not there, and has no part in the reconstruction; if the start
    predicts them better than the fit, neither has the representation.

    Args:
        views: that are left out, evenly spaced.
        iterations: of the fit.
        worst: how many times the least error of start and fit that of the repair may be.

    Raises:
        ValueError: no view, no iteration, or a factor that is not positive.

    Source: cross-validation. DiffNR lets its prior take part in any case.
    """

    def __init__(self, views: int = 2, iterations: int = 500, worst: float = 1.0) -> None:
        if views < 1 or iterations < 1 or not worst > 0:
            raise ValueError(
                f"Trial got views={views}, iterations={iterations}, worst={worst}; at least one view, one iteration "
                "and a factor above 0 are expected."
            )
        self.views = views
        self.iterations = iterations
        self.worst = worst

    def judge(self, problem: Problem, candidates: Callable[[Problem, int], Candidates]) -> Verdict:
        """Leave views out, and compare how the candidates predict them.

        Args:
            problem: what is given; views of it are left out.
            candidates: returns them of a problem, after that many iterations.

        Raises:
            ValueError: a scan of too few views that saw light to leave some out.
        """
        held_out = self._held_out(problem)
        unseen = problem.of_views(held_out)
        errors = [
            misfit(volume, unseen.projections, problem.grid, unseen.scan, unseen.weights)
            for volume in candidates(problem.of_views(~held_out), self.iterations)
        ]
        verdict = Verdict(*errors, self._best(*errors))
        tell(verdict)
        return verdict

    def _held_out(self, problem: Problem) -> Tensor:
        """Return which views are left out, (V,) bool; one without light could not judge."""
        lit = torch.ones(len(problem.scan), dtype=torch.bool)
        if problem.weights is not None:
            lit = (problem.weights > 0).any(dim=(1, 2)).cpu()
        places = lit.nonzero()[:, 0]
        count = len(places)
        if count < self.views + 2:
            dark = "" if lit.all() else " that saw light"
            raise ValueError(
                f"the scan has {count} views{dark}, of which the trial leaves out {self.views}; expected "
                "at least two that remain: lower trial.init_args.views, or set trial to null."
            )
        held_out = torch.zeros(len(lit), dtype=torch.bool)
        held_out[places[((torch.arange(self.views) + 0.5) * count / self.views).long()]] = True
        return held_out

    def _best(self, start: float, before: float, after: float) -> Literal["repair", "fit", "start"]:
        if after <= self.worst * min(start, before):
            return "repair"
        return "fit" if before <= start else "start"


def tell(verdict: Verdict) -> None:
    """Say what becomes of the prior, as a warning where it has no part."""
    outcome = {
        "repair": "the prior takes part",
        "fit": "the prior is left out",
        "start": "prior and representation are left out, since their start predicts the views best",
    }
    logger.log(
        logging.INFO if verdict.chosen == "repair" else logging.WARNING,
        "trial: the held-out views have a mean square error of %.4g by the start, %.4g by the fit and %.4g by its "
        "repair; %s",
        verdict.start,
        verdict.before,
        verdict.after,
        outcome[verdict.chosen],
    )
