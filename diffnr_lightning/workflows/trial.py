"""A trial of the prior on measured views that a first fit does not see."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from diffnr_lightning.consistency import misfit
from diffnr_lightning.priors import RepairedVolume
from diffnr_lightning.workflows.problem import Problem

logger = logging.getLogger("diffnr")


class Verdict(NamedTuple):
    """What a trial found.

    Attributes:
        before: mean square error of the held-out projections, by the weights of their rays, before the repair.
        after: the same after the repair.
        passed: whether the prior may take part.
    """

    before: float
    after: float
    passed: bool


class Trial:
    """Let measured views judge whether the prior fits the object.

    The scene is fitted briefly, without the prior, to all views but a few. The prior repairs that
    volume. If the repaired volume predicts the views that were left out worse than before, the
    prior invents what is not there, and has no part in the reconstruction.

    Args:
        views: that are left out, evenly spaced.
        iterations: of the fit.
        worst: factor that the error of the views left out may grow by.

    Raises:
        ValueError: no view, no iteration, or a factor that is not positive.

    Source: cross-validation. DiffNR lets its prior take part in any case.
    """

    def __init__(self, views: int = 2, iterations: int = 500, worst: float = 1.0) -> None:
        if views < 1 or iterations < 1 or not worst > 0:
            raise ValueError(
                f"Trial got views={views}, iterations={iterations}, worst={worst}; expected at "
                "least one view, one iteration and a factor above 0."
            )
        self.views = views
        self.iterations = iterations
        self.worst = worst

    def judge(
        self,
        problem: Problem,
        fit: Callable[[Problem, int], Tensor],
        repair: Callable[..., RepairedVolume],
    ) -> Verdict:
        """Fit, repair and compare.

        Args:
            problem: what is given; views of it are left out.
            fit: returns the volume (Z, Y, X) after that many iterations without the prior.
            repair: `Repairer.repair`.

        Raises:
            ValueError: a scan of too few views to leave some out.
        """
        count = len(problem.scan)
        if count < self.views + 2:
            raise ValueError(
                f"the scan has {count} views, of which the trial leaves out {self.views}; expected "
                "at least two that remain: lower trial.init_args.views, or set trial to null."
            )
        held_out = (torch.arange(self.views) + 0.5) * count / self.views
        fitted_to = torch.ones(count, dtype=torch.bool)
        fitted_to[held_out.long()] = False
        fitted = problem.of_views(fitted_to)
        volume = fit(fitted, self.iterations)
        with torch.no_grad():
            noise = {"weights": fitted.weights, "photons": fitted.photons}
            repaired = repair(volume, fitted.projections, problem.grid, fitted.scan, **noise).volume
            unseen = problem.of_views(~fitted_to)
            before, after = (
                misfit(candidate, unseen.projections, problem.grid, unseen.scan, unseen.weights)
                for candidate in (volume, repaired)
            )
        passed = after <= self.worst * before
        logger.log(
            logging.INFO if passed else logging.WARNING,
            "trial: the repair changes the error of held-out views by the factor %.3f; the prior %s",
            after / before,
            "takes part" if passed else "is left out",
        )
        return Verdict(before, after, passed)
