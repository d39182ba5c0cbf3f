"""The method that samples a volume with a denoiser of several steps."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor, nn

from diffnr_lightning.consistency import noise_of_mean_weight
from diffnr_lightning.geometry import VolumeGrid
from diffnr_lightning.priors import (
    InferencePrecision,
    check_precision,
    denoiser_folder,
    load_denoiser,
    quicken,
    watch,
)
from diffnr_lightning.representations import Representation, Siren
from diffnr_lightning.solvers import diffusion
from diffnr_lightning.solvers.diffusion.sampler_state import SamplerState, begun, begun_with
from diffnr_lightning.workflows.methods.problem import Method, Problem
from diffnr_lightning.workflows.methods.settling import PATIENTLY, settled
from diffnr_lightning.workflows.methods.solver import Solver, check_options
from diffnr_lightning.workflows.runs.ongoing_run import OngoingRun
from diffnr_lightning.workflows.runs.sampler_record import SamplerRecord

logger = logging.getLogger("diffnr")

Finish = Literal["sample", "settle"]

HANDED = ("denoiser", "representation", "seed", "state")
PRIORS = {"patches": "patches", "ddip3d": "ellipses", "dinr": "ellipses", "scd": "ellipses"}
"""Denoisers of the package that samplers take where none is given; the others take ``slices``."""
STARTING = ("ddip3d", "dinr")
"""Samplers that begin with a volume of their own where none is given."""


class Sampler(Method):
    """Sample a volume that a prior of several steps and the projections agree on.

    Args:
        name: a function of `diffnr_lightning.solvers.diffusion`.
        denoiser: folder of the prior, as `diffnr train-denoiser` writes it or diffusers does, or the name of one that
            comes with the package; null takes the one of these that the sampler is meant for.
        options: further keyword arguments of the function.
        start: solver whose volume the sampling starts from, with noise; options then say by `start` at which share of
            the schedule. None starts from noise alone.
        representation: what the sampler fits, where it fits one as `dinr` does; null is a `Siren`.
        counted_noise: whether the sampler is told the noise of a ray, where it is known, as its option `noise`.
        precision: in which the denoiser is asked: `auto` is bfloat16 on processors that have instructions for it
            (AMX, AVX-512 BF16), in half of the time or less, and float32 else. Where it is adapted
            (scd, ddip3d, dinr) it learns in float32.
        finish: `settle` moves the sample, where it leaves more than noise, by weighted total variation towards its
            projections until noise is left (`settled`); `sample` leaves it as it is.

    Raises:
        ValueError: a name that is no sampler, an option that it does not have, a representation that it does not
            fit, a noise that it does not take, or an unknown finish.
    """

    def __init__(
        self,
        name: str = "dds",
        denoiser: str | Path | None = None,
        options: dict[str, Any] | None = None,
        start: Solver | None = None,
        representation: Callable[[VolumeGrid], Representation] | None = None,
        counted_noise: bool = False,
        precision: InferencePrecision = "auto",
        finish: Finish = "sample",
    ) -> None:
        if name not in diffusion.__all__:
            raise ValueError(
                f"{name!r} is no sampler; one of {', '.join(diffusion.__all__)} is expected."
            )
        self.function = getattr(diffusion, name)
        self.name = self.path = name
        self.options = options or {}
        self.defaults = check_options(f"sampler {name}", self.function, self.options, HANDED)
        self.denoiser = denoiser or PRIORS.get(name, "slices")
        self.start = start
        parameters = inspect.signature(self.function).parameters
        self.fits_representation = "representation" in parameters
        if representation is not None and not self.fits_representation:
            raise ValueError(
                f"the sampler {name} fits no representation and one is given; take it out, or take dinr."
            )
        self.representation = representation or Siren
        if counted_noise and ("noise" not in self.defaults or "noise" in self.options):
            takes = "options.noise as well" if "noise" in self.options else "no option noise"
            raise ValueError(
                f"counted_noise is set and the sampler {name} has {takes}; leave one of them out."
            )
        self.counted_noise = counted_noise
        check_precision(precision)
        self.precision: InferencePrecision = precision
        if finish not in get_args(Finish):
            raise ValueError(
                f"finish is {finish!r}; one of {', '.join(get_args(Finish))} is expected."
            )
        self.finish = finish
        self.findings = {"denoiser": str(self.denoiser)}

    @property
    def learned(self) -> tuple[Path, ...]:
        """Folder of the denoiser."""
        return (denoiser_folder(self.denoiser),)

    def record(self, run: OngoingRun) -> SamplerRecord:
        """Return what keeps the state of the sampler, and shows its estimates."""
        return SamplerRecord(run.folder, run.progress, run.show)

    def reconstruct(self, problem: Problem) -> Tensor:
        """Return the sampled volume.

        Raises:
            FileNotFoundError: no such denoiser.
            ValueError: one that is damaged, or that the sampler cannot use.
        """
        state = {} if problem.state is None else problem.state
        denoiser = load_denoiser(self.denoiser).to(problem.projections.device)
        quicken(denoiser, self.precision)
        _count_evaluations(denoiser, state, problem.grid)
        further = dict(self.options)
        if self.fits_representation:
            further["representation"] = self.representation(problem.grid)
        if self.counted_noise and problem.weights is None:
            logger.warning(
                "counted_noise is true and the noise of the rays is not known: no step is held to the noise"
            )
        elif self.counted_noise:
            power = self.options.get("power", self.defaults["power"])
            noise = noise_of_mean_weight(problem.weights, power)
            further["noise"] = begun_with(state, "noise", noise)
        sample = self.function(
            problem.projections,
            problem.grid,
            problem.scan,
            denoiser,
            initial=self._initial(problem),
            weights=problem.weights,
            seed=problem.seed,
            state=state,
            progress=problem.progress,
            **further,
        )
        return sample if self.finish == "sample" else self._settled(sample, problem)

    def _settled(self, sample: Tensor, problem: Problem) -> Tensor:
        """Return a sample (Z, Y, X) after its last step; write the findings."""
        self.findings.pop("settled", None)
        if problem.weights is None:
            logger.warning(
                "finish is settle and the noise of the rays is not known: the sample stays as it is"
            )
            return sample
        ended = settled(sample, problem, (PATIENTLY,))
        self.findings["settled"] = ended.findings()
        return ended.volume

    def _initial(self, problem: Problem) -> Tensor | None:
        """Return the volume to start from; None where there is none, or where the state of a killed run is beyond it.

        A representation is begun from it again, and states of earlier versions do not hold it.
        """
        state = problem.state or {}
        held = "first" in state if self.fits_representation else begun(state)
        if self.start is None or held:
            self._warn_of_a_missing_start()
            return None
        return self.start.reconstruct(problem._replace(progress=None, state=None))

    def _warn_of_a_missing_start(self) -> None:
        """Say that a share of the schedule below one begins with something."""
        share = self.options.get("start", 1.0)
        if self.start is None and share < 1.0 and self.name not in STARTING:
            logger.warning(
                "options.start is %.4g and no solver is named as start: the sampler begins with little noise in a "
                "volume of one gray value, of which much stays",
                share,
            )


def _count_evaluations(denoiser: nn.Module, state: SamplerState, grid: VolumeGrid) -> None:
    """Let a denoiser note in a state, which a killed run keeps, how many volumes it was shown so far.

    Of a state that was begun without the number it stays unknown.
    """
    if begun(state) and "evaluations" not in state:
        return

    def note(pixels: int) -> None:
        shown = pixels / math.prod(grid.shape)
        state["evaluations"] = state.get("evaluations", 0.0) + shown

    watch(denoiser, note)
