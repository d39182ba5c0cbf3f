"""Ways from projections to a volume: a classical solver, or a representation optimised for the scan."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning
import torch
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch.loggers import Logger
from torch import Tensor

from diffnr_lightning import solvers
from diffnr_lightning.callbacks import DensityControl, PseudoReference
from diffnr_lightning.data import RaySampling, ScanData
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.modules import SceneOptimization
from diffnr_lightning.representations import GaussianCloud, Representation
from diffnr_lightning.workflows.trial import Trial

Progress = Callable[[int, int, str], None]


class Problem(NamedTuple):
    """What every method is given.

    Attributes:
        projections: (V, H, W) line integrals of normalised attenuation in mm.
        scan: their geometry.
        grid: voxels of the volume that is wanted.
        seed: of everything random.
        folder: where checkpoints may be kept, None to keep none.
        callbacks: Lightning callbacks that watch an optimisation (record, progress).
        curves: Lightning logger of an optimisation.
        progress: called with (done, total, text) by solvers.
    """

    projections: Tensor
    scan: ScanGeometry
    grid: VolumeGrid
    seed: int = 0
    checkpoint: Path | None = None
    callbacks: tuple[lightning.Callback, ...] = ()
    curves: Logger | None = None
    progress: Progress | None = None


class Method(ABC):
    """A way from projections to a volume; subclasses are named in configs by ``class_path``.

    Attributes:
        name: in tables, where the command gives no other.
        findings: what `metrics.json` is told of the last reconstruction.
    """

    name: str
    findings: dict[str, Any]

    @abstractmethod
    def reconstruct(self, problem: Problem) -> Tensor:
        """Return the volume (Z, Y, X) in normalised attenuation."""


class Solver(Method):
    """Run one of the classical solvers.

    Args:
        name: which one; `analytic` is FDK for cone beam and filtered backprojection for parallel beam.
        options: keyword arguments of the function in `diffnr_lightning.solvers`.

    Raises:
        ValueError: an option that the solver does not have.
    """

    def __init__(
        self,
        name: Literal["analytic", "sirt", "sart", "asd_pocs"],
        options: dict[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.findings = {}
        self.options = options or {}
        self.function = getattr(solvers, name)
        parameters = inspect.signature(self.function).parameters
        _check_options(name, self.function, self.options)
        self.shows_progress = "progress" in parameters

    def reconstruct(self, problem: Problem) -> Tensor:
        """Return the solver's volume."""
        progress = {"progress": problem.progress} if self.shows_progress else {}
        return self.function(
            problem.projections, problem.grid, problem.scan, **self.options, **progress
        )


class Scene(Method):
    """Optimise a representation for this scan, with or without a prior: DiffNR and its baselines.

    Args:
        representation: what is optimised.
        optimisation: the losses and rates.
        iterations: batches.
        rays: which pixels of a view a batch looks at; None is all, which is right where a whole view is cheap.
        views: views that a batch looks at; all, where there are fewer. Few rays of each of many views know the
            whole object.
        density_control: adaptive density control; None leaves the Gaussians that there are.
        pseudo_reference: the prior's part; None optimises without one.
        finish: `query` returns the representation's volume; `repair` lets the prior repair (and align) it once more.
        trial: judges on held-out views whether the prior takes part; None lets it in any case. Without the prior the
            result is the volume that would have been repaired first.
        start: solver whose volume the representation starts from; None is the analytic one.

    Raises:
        ValueError: fewer than one iteration or view, or `finish: repair` or a trial without a pseudo_reference.
    """

    def __init__(
        self,
        representation: Callable[[VolumeGrid], Representation] = GaussianCloud,
        optimisation: Callable[
            [Representation, ScanGeometry, VolumeGrid, int], SceneOptimization
        ] = SceneOptimization,
        iterations: int = 30_000,
        rays: RaySampling | None = None,
        views: int = 1,
        density_control: DensityControl | None = None,
        pseudo_reference: PseudoReference | None = None,
        finish: Literal["query", "repair"] = "query",
        trial: Trial | None = None,
        start: Solver | None = None,
    ) -> None:
        if iterations < 1:
            raise ValueError(f"iterations is {iterations}; at least one is expected.")
        if views < 1:
            raise ValueError(f"views is {views}; at least one is expected.")
        if finish == "repair" and pseudo_reference is None:
            raise ValueError("finish is 'repair' but there is no pseudo_reference to repair with.")
        if trial is not None and pseudo_reference is None:
            raise ValueError("there is a trial but no pseudo_reference that it could judge.")
        self.representation = representation
        self.optimisation = optimisation
        self.iterations = iterations
        self.rays = rays
        self.views = views
        self.density_control = density_control
        self.pseudo_reference = pseudo_reference
        self.finish = finish
        self.trial = trial
        self.findings = {}
        self.name = "scene" if pseudo_reference is None else "scene + DiffNR"
        self.start = start or Solver("analytic")

    def reconstruct(self, problem: Problem) -> Tensor:
        """Return the volume of the optimised representation, repaired once more where `finish` says so."""
        self.findings = {}
        if self.trial is not None:
            verdict = self.trial.judge(self, problem)
            self.findings = {"trial": verdict._asdict()}
            if not verdict.passed:
                until = min(self.pseudo_reference.every, self.iterations)
                return self.fit(problem, until, prior=False).query_volume().detach()
        module = self.fit(problem)
        with torch.no_grad():
            volume = module.query_volume()
        if self.finish == "repair":
            volume = self.pseudo_reference.repair(
                volume, problem.projections, problem.grid, problem.scan
            )
        if self.pseudo_reference is not None:
            self.findings["doubted"] = self.pseudo_reference.doubted
        return volume.detach()

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
        representation.initialise(first, problem.projections, problem.scan, problem.seed)
        module = self.optimisation(representation, problem.scan, problem.grid, problem.seed)
        own = (self.density_control, self.pseudo_reference if prior else None)
        trainer = lightning.Trainer(
            max_steps=stop_at or self.iterations,
            accelerator="gpu" if problem.projections.is_cuda else "cpu",
            devices=[problem.projections.device.index] if problem.projections.is_cuda else 1,
            logger=problem.curves or False,
            callbacks=[*(c for c in own if c is not None), *problem.callbacks],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            barebones=False,
        )
        data = ScanData(
            problem.projections,
            seed=problem.seed,
            iterations=self.iterations,
            batch_size=min(self.views, len(problem.scan)),
            rays=self.rays,
        )
        resume = problem.checkpoint if problem.checkpoint and problem.checkpoint.exists() else None
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        return module.to(problem.projections.device)


def _check_options(name: str, function: Callable[..., Tensor], options: dict[str, Any]) -> None:
    """Refuse options that the solver does not have, and values of another type."""
    parser = ArgumentParser(exit_on_error=False)
    given = {"projections", "grid", "scan", "initial", "progress"}
    known = parser.add_function_arguments(function, skip=given, fail_untyped=False)
    for key, value in options.items():
        if key not in known:
            raise ValueError(f"solver {name} has no option {key!r}; it has {', '.join(known)}.")
        try:
            parser.parse_object({key: value})
        except ArgumentError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise ValueError(f"option {key} of solver {name} is {value!r}: {reason}") from None
