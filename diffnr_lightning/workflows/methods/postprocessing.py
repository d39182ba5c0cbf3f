"""The method that repairs the volume of a solver once: FBP-UNet and its kind."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from diffnr_lightning.priors import Repairer, refuse_slicefixer
from diffnr_lightning.workflows.methods.problem import Method, Problem
from diffnr_lightning.workflows.methods.solver import Solver


class Postprocessing(Method):
    """Repair the volume of a solver by a prior that was trained on such volumes.

    Args:
        start: solver; None is FDK, or filtered backprojection where the beam is parallel.
        repairer: with the weights of the prior, as `diffnr finetune` writes them. Its defaults do one pass over the
            axial slices and hold nothing to the projections.

    Raises:
        ValueError: the weights of a SliceFixer behind FDK.

    Source: K. H. Jin, M. T. McCann, E. Froustey, M. Unser, "Deep convolutional neural network for inverse problems in
    imaging", IEEE Trans. Image Process. 2017 (FBPConvNet), for FDK and slices. Deviation: slices are clipped to [0, 1]
    before the network, as every prior's are.
    """

    def __init__(self, start: Solver | None = None, repairer: Repairer | None = None) -> None:
        self.start = start or Solver("analytic")
        if repairer is not None and not self.start.fits:
            refuse_slicefixer(repairer.learned, repairer.prior)
        self.repairer = repairer
        self.name = f"{self.start.name} + repair"
        self.weighs = self.start.weighs
        self.fits = self.start.fits
        self.findings = {}

    @property
    def learned(self) -> tuple[Path, ...]:
        """File of the prior's weights."""
        return () if self.repairer is None else (self.repairer.learned,)

    @torch.no_grad()
    def reconstruct(self, problem: Problem) -> Tensor:
        """Return the repaired volume.

        Raises:
            ValueError: no repairer.
        """
        if self.repairer is None:
            raise ValueError(
                "there are no weights to repair with; give those that `diffnr finetune` wrote by "
                "--method.init_args.repairer.weights."
            )
        self.before_prior = self.start.reconstruct(problem)
        repaired = self.repairer.repair(
            self.before_prior,
            problem.projections,
            problem.grid,
            problem.scan,
            weights=problem.weights,
            photons=problem.photons,
            features=problem.features,
        )
        agreement = repaired.agreement
        self.findings = {} if agreement is None else {"agreement": agreement.findings()}
        return repaired.volume
