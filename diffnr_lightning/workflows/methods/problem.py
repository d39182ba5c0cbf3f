"""What every method is given, and what a method is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from diffnr_lightning.constructed import Constructed
from diffnr_lightning.workflows.runs.built import built

if TYPE_CHECKING:
    from lightning import Callback
    from lightning.pytorch.loggers import Logger
    from torch import Tensor

    from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
    from diffnr_lightning.photons import PhotonCounts
    from diffnr_lightning.solvers import Surroundings
    from diffnr_lightning.solvers.diffusion.sampler_state import SamplerState
    from diffnr_lightning.workflows.runs.ongoing_run import OngoingRun
    from diffnr_lightning.workflows.runs.trial_record import TrialRecord

Progress = Callable[[int, int, str], None]


class Problem(NamedTuple):
    """What every method is given.

    Attributes:
        projections: (V, H, W) line integrals of normalised attenuation in mm.
        scan: their geometry.
        grid: voxels of the volume that is wanted.
        seed: of everything random.
        checkpoint: file of an optimisation that was interrupted, None to begin anew.
        callbacks: Lightning callbacks that watch an optimisation (record, progress).
        curves: Lightning logger of an optimisation.
        progress: called with (done, total, text) by solvers.
        features: (1, 2, F) features of two projections that came with the case, for a prior that takes such.
        photons: what the detector counted, in the unit of `projections`; None where it is not known.
        weights: (V, H, W) statistical weights of the rays (`PhotonCounts.weights`) that methods are to use; None
            weighs all alike.
        state: of a sampler, filled after each of its steps; one that was interrupted goes on from there.
        surroundings: what lies around the grid, where the object reaches beyond it.
        trial: keeps what a trial found; one that an earlier process of the run has judged is not judged again.
    """

    projections: Tensor
    scan: ScanGeometry
    grid: VolumeGrid
    seed: int = 0
    checkpoint: Path | None = None
    callbacks: tuple[Callback, ...] = ()
    curves: Logger | None = None
    progress: Progress | None = None
    features: Tensor | None = None
    photons: PhotonCounts | None = None
    weights: Tensor | None = None
    state: SamplerState | None = None
    surroundings: Surroundings | None = None
    trial: TrialRecord | None = None

    def shown(self, volume: Tensor, scan: ScanGeometry) -> Tensor:
        """Return the projections (V, H, W) of a volume (Z, Y, X) and of its surroundings in the views of a scan."""
        from diffnr_lightning.projectors import project

        shown = project(volume, self.grid, scan)
        return shown if self.surroundings is None else shown + self.surroundings.project(scan)

    def surrounding_share(self) -> float:
        """Return what of the measured line integrals lies around the grid."""
        return float(self.surroundings.project(self.scan).sum() / self.projections.sum())

    def without_surroundings(self) -> Problem:
        """Return the problem of the grid alone: rays are as strong as they are when they have passed the rest."""
        if self.surroundings is None:
            return self
        around = self.surroundings.project(self.scan)
        photons = self.photons
        if photons is not None:
            photons = photons._replace(air=photons.air * (-photons.scale * around).exp())
        return self._replace(
            projections=self.projections - around, photons=photons, surroundings=None
        )

    def of_views(self, views: Tensor) -> Problem:
        """Return the problem of some views alone, without a checkpoint and without those who watch.

        Args:
            views: (V,) bool.
        """
        return self._replace(
            projections=self.projections[views],
            scan=self.scan[views],
            photons=None if self.photons is None else self.photons.of_views(views),
            weights=None if self.weights is None else self.weights[views],
            checkpoint=None,
            callbacks=(),
            curves=None,
            state=None,
            trial=None,
        )


class MethodRecord:
    """What is kept of a method while it reconstructs; of this one nothing, and it begins anew when it is interrupted.

    Attributes:
        steps: iterations done, by which a logger orders what it is given.
    """

    steps: int = 0

    def watched(self, problem: Problem) -> Problem:
        """Return the problem with whoever watches the method, and with what it goes on from."""
        return problem

    def metrics(self) -> dict[str, Any]:
        """Return what `metrics.json` is to say of how the volume was made."""
        return {}

    def finish(self) -> None:
        """Remove what a finished run does not need; its results are written."""


class Method(Constructed, ABC):
    """A way from projections to a volume; subclasses are named in configs by ``class_path``.

    Attributes:
        name: in tables, where the command gives no other; that of the class where it says none.
        findings: what `metrics.json` records of the last reconstruction; nothing where the class says nothing.
        weighs: whether it heeds the weights of the rays.
        fits: whether it compares projections of its volume with the measured ones, for which all has to be known that
            rays pass.
        before_prior: (Z, Y, X) the volume of the last reconstruction before a prior changed it, None where none did.
    """

    name: str
    findings: Mapping[str, Any] = MappingProxyType({})
    weighs: bool = True
    fits: bool = True
    before_prior: Tensor | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if not hasattr(cls, "name"):
            cls.name = cls.__name__

    @property
    def built(self) -> Any:
        """How it was built, for run folders of methods that no settings describe."""
        return built(self)

    @property
    def learned(self) -> tuple[Path, ...]:
        """Files and folders of the trained weights that it uses."""
        return ()

    def record(self, run: OngoingRun) -> MethodRecord:
        """Return what keeps the method in a run, so that it goes on where it was interrupted."""
        return MethodRecord()

    @abstractmethod
    def reconstruct(self, problem: Problem) -> Tensor:
        """Return the volume (Z, Y, X) in normalised attenuation."""
