"""The method that optimises a representation for its scan: DiffNR and its baselines."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from diffnr_lightning.callbacks import DensityControl, PseudoReference, RepairedProjections
from diffnr_lightning.data import RaySampling, ScanData
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.modules import SceneOptimization
from diffnr_lightning.representations import GaussianCloud, Representation
from diffnr_lightning.workflows.methods.problem import Method, Problem
from diffnr_lightning.workflows.methods.settling import settled
from diffnr_lightning.workflows.methods.solver import Solver
from diffnr_lightning.workflows.methods.trial import Candidates, Trial
from diffnr_lightning.workflows.runs.ongoing_run import OngoingRun
from diffnr_lightning.workflows.runs.scene_record import SceneRecord
from diffnr_lightning.workflows.runs.trial_record import Judged
from diffnr_lightning.workflows.training.trainer import quiet_trainer


class Scene(Method):
    """Optimise a representation for this scan, with or without a prior: DiffNR and its baselines.

    Args:
        representation: what is optimised.
        optimisation: the losses and rates.
        iterations: batches of the schedule.
        extension: share of them by which the optimisation goes on at the rates that are left, such as under the
            pseudo-reference.
        rays: which pixels of a view a batch uses; None is all, which is right where a whole view is cheap.
        views: views that a batch uses; all, where there are fewer. Few rays of each of many views cover the
            whole object.
        density_control: adaptive density control; None leaves the Gaussians that there are.
        pseudo_reference: the prior's part; None optimises without one.
        finish: `query` returns the representation's volume; `repair` lets the prior repair it once more; `settle` moves
            what came of that by total variation until it leaves no more than noise, see `settled`, where the noise of
            the rays is known.
        trial: judges on held-out views whether the prior takes part; None lets it in any case. Without the prior the
            result is the volume that would have been repaired first, or the start where that predicts them better.
        repaired_projections: adds repaired renderings of views between the measured ones to what is fitted; None fits
            measured views alone.
        start: solver whose volume the representation starts from; None is the analytic one where the views are near a
            circle, some iterations of SIRT elsewhere (`solvers.initial_volume`).

    Attributes:
        iterations: batches of schedule and extension together.
        made: those of them that the last result is of, which a trial may decide.

    Raises:
        ValueError: fewer than one iteration or view, a negative extension, a repair at the end or a trial without a
            pseudo_reference, or a part of a prior that comes after the last iteration.
    """

    def __init__(
        self,
        representation: Callable[[VolumeGrid], Representation] = GaussianCloud,
        optimisation: Callable[
            [Representation, ScanGeometry, VolumeGrid, int], SceneOptimization
        ] = SceneOptimization,
        iterations: int = 30_000,
        extension: float = 0.0,
        rays: RaySampling | None = None,
        views: int = 1,
        density_control: DensityControl | None = None,
        pseudo_reference: PseudoReference | None = None,
        finish: Literal["query", "repair", "settle"] = "query",
        trial: Trial | None = None,
        start: Solver | None = None,
        repaired_projections: RepairedProjections | None = None,
    ) -> None:
        if iterations < 1:
            raise ValueError(f"iterations is {iterations}; at least one is expected.")
        if extension < 0:
            raise ValueError(f"extension is {extension}; a share of at least 0 is expected.")
        if views < 1:
            raise ValueError(f"views is {views}; at least one is expected.")
        if finish != "query" and pseudo_reference is None:
            raise ValueError(
                f"finish is {finish!r} but there is no pseudo_reference to repair with."
            )
        if trial is not None and pseudo_reference is None:
            raise ValueError("there is a trial but no pseudo_reference that it could judge.")
        self.representation = representation
        self.optimisation = optimisation
        self.iterations = round(iterations * (1 + extension))
        self.rays = rays
        self.views = views
        self.density_control = density_control
        if pseudo_reference is not None:
            pseudo_reference.adapt(iterations)
        self._refuse_idle(pseudo_reference, repaired_projections, finish)
        self.pseudo_reference = pseudo_reference
        self.repaired_projections = repaired_projections
        self.finish = finish
        self.trial = trial
        self.findings, self.made = {}, self.iterations
        self.name = "scene" if pseudo_reference is None else "scene + DiffNR"
        self.start = start or Solver("initial_volume")

    def _refuse_idle(
        self,
        reference: PseudoReference | None,
        views: RepairedProjections | None,
        finish: str,
    ) -> None:
        """Refuse a prior that would never take part, whose result would be called after it nevertheless."""
        if reference is not None and finish == "query" and reference.every >= self.iterations:
            raise ValueError(
                f"pseudo_reference is made every {reference.every} batches, but there are {self.iterations} in all and "
                "finish is 'query', so that the prior would have no part; lower every, or give every_share instead."
            )
        if reference is not None and finish == "query" and reference.repairs == 0:
            raise ValueError(
                "pseudo_reference.repairs is 0 and finish is 'query', so that the prior would have no part; let it "
                "make at least one repair, or set finish to 'repair'."
            )
        if views is not None and views.at[0] >= self.iterations:
            raise ValueError(
                f"repaired_projections come first after {views.at[0]} batches, but there are {self.iterations} in all; "
                "lower repaired_projections.init_args.at."
            )

    @property
    def learned(self) -> tuple[Path, ...]:
        """Files and folders of the priors' weights, where they take part."""
        priors = (self.pseudo_reference, self.repaired_projections)
        return tuple(prior.repairer.learned for prior in priors if prior is not None)

    def record(self, run: OngoingRun) -> SceneRecord:
        """Return what keeps checkpoint and convergence of the optimisation."""
        return SceneRecord(run, lambda: self.made)

    def reconstruct(self, problem: Problem) -> Tensor:
        """Return the volume (Z, Y, X) of the optimised representation, repaired once more where `finish` says so.

        Where there is a trial, the result may instead be the volume of the solver that it starts from, or that of a
        representation without the prior, blended with the start by `start_share`: whichever `trial` chose.
        """
        self.findings, self.before_prior, self.made = {}, None, self.iterations
        if self.trial is None:
            return self._optimised(problem)
        verdict, asked = self._judged(problem)
        self.findings = {"trial": verdict._asdict()}
        self._note_evaluations(asked)
        if verdict.chosen == "start":
            self.made = 0
            return self.start.reconstruct(problem)
        if verdict.chosen == "fit":
            self.made = min(self.pseudo_reference.every, self.iterations)
            module = self.fit(problem, self.made, prior=False)
            return self.pseudo_reference.unrepaired(module)
        return self._optimised(problem, asked)

    def _judged(self, problem: Problem) -> Judged:
        """Return what the trial finds, or found in an earlier process of the run."""
        earlier = None if problem.trial is None else problem.trial.earlier()
        if earlier is not None:
            return earlier
        self.pseudo_reference.evaluations = 0.0
        verdict = self.trial.judge(problem, self._candidates)
        judged = Judged(verdict, self.pseudo_reference.evaluations)
        if problem.trial is not None:
            problem.trial.keep(judged)
        return judged

    def _optimised(self, problem: Problem, asked: float = 0.0) -> Tensor:
        """Return the volume (Z, Y, X) of an optimisation in which the prior takes part; write the findings.

        Args:
            problem: what is given.
            asked: how often a trial asked a denoiser of several steps for the whole volume.
        """
        module = self.fit(problem)
        if self.pseudo_reference is None:
            return _volume_of(module)
        finished = _volume_of(module) if self.finish == "query" else self._repaired(module, problem)
        self.before_prior = self.pseudo_reference.first
        own = self.pseudo_reference.evaluations
        self._note_evaluations(None if own is None else asked + own)
        return finished

    def _note_evaluations(self, asked: float | None) -> None:
        """Write how often a denoiser was asked into the findings, where there is one and the number is known."""
        self.findings.pop("evaluations", None)
        if asked:
            self.findings["evaluations"] = round(asked, 2)

    def _repaired(self, module: SceneOptimization, problem: Problem) -> Tensor:
        """Return what the prior makes of a module (Z, Y, X), settled where `finish` says so; write the findings."""
        repaired = self.pseudo_reference.repair(
            module, problem.projections, problem.weights, problem.photons, problem.features
        )
        if repaired.agreement is not None:
            self.findings["agreement"] = repaired.agreement.findings() | {
                "passes": repaired.passes,
                "contradicted": repaired.contradicted,
                "start_alone": self.pseudo_reference.start_alone,
            }
        if self.finish != "settle" or problem.weights is None:
            return repaired.volume
        ended = settled(repaired.volume, problem)
        self.findings["settled"] = ended.findings()
        return ended.volume

    def _candidates(self, problem: Problem, iterations: int) -> Candidates:
        """Return what a trial chooses among, of some iterations in which the prior has no part."""
        module = self.fit(problem, iterations, prior=False)
        fitted = self.pseudo_reference.unrepaired(module)
        return Candidates(module.start, fitted, self._repaired(module, problem))

    def fit(
        self, problem: Problem, stop_at: int | None = None, *, prior: bool = True
    ) -> SceneOptimization:
        """Optimise and return the module; takes up the checkpoint where there is one.

        Args:
            problem: what is given.
            stop_at: iterations after which to stop early, with the schedules of the full length.
            prior: whether the pseudo_reference takes part.
        """
        representation = self.representation(problem.grid)
        first = self.start.reconstruct(problem)
        takes_weights = "weights" in inspect.signature(representation.initialise).parameters
        light = {"weights": problem.weights} if takes_weights else {}
        representation.initialise(first, problem.projections, problem.scan, problem.seed, **light)
        module = self.optimisation(representation, problem.scan, problem.grid, problem.seed)
        module.start = first
        priors = (self.pseudo_reference, self.repaired_projections) if prior else ()
        own = (self.density_control, *priors)
        trainer = quiet_trainer(
            max_steps=stop_at or self.iterations,
            accelerator="gpu" if problem.projections.is_cuda else "cpu",
            devices=[problem.projections.device.index] if problem.projections.is_cuda else 1,
            logger=problem.curves or False,
            callbacks=[*(c for c in own if c is not None), *problem.callbacks],
            barebones=False,
        )
        data = ScanData(
            problem.projections,
            seed=problem.seed,
            iterations=self.iterations,
            batch_size=min(self.views, len(problem.scan)),
            rays=self.rays,
            features=problem.features,
            weights=problem.weights,
            photons=problem.photons,
        )
        resume = problem.checkpoint if problem.checkpoint and problem.checkpoint.exists() else None
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        return module.to(problem.projections.device)


@torch.no_grad()
def _volume_of(module: SceneOptimization) -> Tensor:
    return module.query_volume().detach()
