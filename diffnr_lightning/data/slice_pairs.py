"""Pairs of degraded and clean slices, as finetuning draws them from curated scans."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning
from torch.utils.data import DataLoader, Dataset

from diffnr_lightning.batches import SlicePair, VolumePair
from diffnr_lightning.constructed import Constructed
from diffnr_lightning.data.datamodules import IterationSampler, evenly_shared
from diffnr_lightning.data.pairs.draws import HeldOutSlices, HeldOutVolumes, SlicePairDataset
from diffnr_lightning.data.pairs.features import with_features
from diffnr_lightning.data.pairs.files import ScanPairs, open_pairs, write_pairs
from diffnr_lightning.data.pairs.hold_out import held_out_volumes
from diffnr_lightning.data.pairs.shares import drawing_chances
from diffnr_lightning.files import SECOND_FINGERPRINT, json_sha256
from diffnr_lightning.planes import PLANE_NAMES, PlaneName

__all__ = [
    "HeldOutSlices",
    "HeldOutVolumes",
    "ScanPairs",
    "SlicePairData",
    "SlicePairDataset",
    "open_pairs",
    "write_pairs",
]

# Voxels of a volume that tell it from others; all of them would be read from the disk.
LOOKED_AT = 16

logger = logging.getLogger("diffnr")


class SlicePairData(Constructed, lightning.LightningDataModule):
    """Training crops and held-out slices from pairs folders; one epoch is the whole run.

    The Trainer is given `max_epochs=1`: the run ends when `iterations` batches are drawn. It
    resumes where the module's `iteration` stands.

    Args:
        folders: written by `diffnr curate`.
        iterations: batches of the run.
        held_out: patterns (fnmatch) of the names of cases or volumes that are kept for validation; a case that matches
            keeps its whole volume, all scans of it. Pairs that were curated for validation alone always are.
        held_out_share: share of the volumes that is kept for validation where nothing else names any: those whose names
            come first in the order of their SHA-256, at least one of two; 0 keeps none.
        shares: of the draws that the training scans of a pattern get together, relative to each other, by patterns
            (fnmatch) of the names of cases or volumes of which the first that matches counts: `{"pt_*": 3, "*": 1}`
            takes three quarters of the crops from pt_1, pt_2, ... None draws every scan equally often.
        batch_size: crops in a training batch.
        crop: edge of a crop in pixels.
        context: neighbouring slices on each side, as the prior's.
        planes: planes of slicing in training.
        zoom: range of the magnification.
        gain: range of the factor on the intensities.
        flips: whether crops are mirrored at random.
        empty_share: probability of keeping a drawn slice that shows nothing.
        dropout: probability of hiding the projections, the number of views, the residual and its noise, each.
        validation: on evenly spaced slices of the held-out scans, or on whole volumes.
        validation_slices: slices of each held-out snapshot and plane.
        validation_planes: planes of slicing in validation.
        seed: of the draws.
        workers: processes that prepare batches; 0 prepares them in the training process.

    Attributes:
        held_out_volumes: names of the volumes that training does not see.

    Raises:
        ValueError: a range, share or size that makes no sense.
    """

    # Folders may be moved; a run compares what lies in them.
    FREE = ("folders", "workers")

    def __init__(
        self,
        folders: Sequence[Path],
        iterations: int,
        held_out: Sequence[str] = (),
        held_out_share: float = 0.05,
        shares: dict[str, float] | None = None,
        batch_size: int = 8,
        crop: int = 96,
        context: int = 1,
        planes: Sequence[PlaneName] = PLANE_NAMES,
        zoom: tuple[float, float] = (0.8, 1.25),
        gain: tuple[float, float] = (0.9, 1.1),
        flips: bool = True,
        empty_share: float = 0.05,
        dropout: float = 0.15,
        validation: Literal["slices", "volumes"] = "slices",
        validation_slices: int = 8,
        validation_planes: Sequence[PlaneName] = ("axial",),
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        super().__init__()
        for name, count in (
            ("folders", len(folders)),
            ("iterations", iterations),
            ("batch_size", batch_size),
            ("crop", crop),
            ("validation_slices", validation_slices),
            ("planes", len(planes)),
            ("validation_planes", len(validation_planes)),
        ):
            if count < 1:
                raise ValueError(f"{name} is or has the length {count}; expected at least 1.")
        for name, (low, high) in (("zoom", zoom), ("gain", gain)):
            if not 0 < low <= high:
                raise ValueError(f"{name} is ({low}, {high}); expected 0 < low <= high.")
        if not 0 <= held_out_share < 1:
            raise ValueError(f"held_out_share is {held_out_share}; expected a share in [0, 1).")
        if not 0 <= empty_share <= 1 or not 0 <= dropout <= 1:
            raise ValueError(
                f"empty_share is {empty_share} and dropout {dropout}; expected shares in [0, 1]."
            )
        self.folders = [Path(folder) for folder in folders]
        self.iterations = iterations
        self.held_out = tuple(held_out)
        self.held_out_share = held_out_share
        self.held_out_volumes: list[str] = []
        self.shares = dict(shares or {})
        self.batch_size = batch_size
        self.context = context
        self.drawing: dict[str, Any] = {
            "seed": seed,
            "crop": crop,
            "context": context,
            "planes": tuple(planes),
            "zoom": zoom,
            "gain": gain,
            "flips": flips,
            "empty_share": empty_share,
            "dropout": dropout,
        }
        self._chances: Any = None
        self.validate_on = validation
        self.validation_slices = validation_slices
        self.validation_planes = tuple(validation_planes)
        self.workers = workers
        self.training: list[ScanPairs] = []
        self.validation: list[ScanPairs] = []

    def setup(self, stage: str) -> None:
        """Map the files and split them by volume.

        If the prior that is trained has a frozen encoder of projections (`projection_encoder`), its
        features take the projections' place, see `with_features`.

        Raises:
            FileNotFoundError: a folder without pairs.
            ValueError: a damaged file, biplanar pairs of several sizes, a pattern that no case has,
                nothing left to train on, or shares that `drawing_chances` refuses.
        """
        folders = {folder: open_pairs(folder) for folder in self.folders}
        scans = [scan for named in folders.values() for scan in named.values()]
        sizes = sorted({tuple(scan.biplanar.shape) for scan in scans})
        if len(sizes) > 1:
            raise ValueError(
                f"the pairs folders hold biplanar projections of the shapes {sizes}; curate all of "
                "them with the same size."
            )
        held = self._held_out(scans)
        self.held_out_volumes = sorted(held)
        # Commands look at the pairs before a Trainer does, each process by itself.
        if stage == "fit" and self.trainer is not None and self.trainer.is_global_zero:
            logger.info("held out: %s", ", ".join(self.held_out_volumes) or "nothing")
        scans = self._with_features(folders)
        self.training = [scan for scan in scans if _volume_of(scan) not in held]
        self.validation = [scan for scan in scans if _volume_of(scan) in held]
        self._chances = drawing_chances(_names(self.training), self.shares)
        if stage == "fit":
            self._warn_of_what_is_missing()
            self._warn_of_other_projections(*sizes[0][1:])

    @property
    def content(self) -> str:
        """Fingerprint of the scans that there are, of their volumes, and of what is held out; known after `setup`.

        Before the mark it is the one of earlier versions, which knew names and shapes alone; see `files.same_content`.
        """
        scans = [*self.training, *self.validation]
        shapes = sorted((str(scan.info["case"]), list(scan.degraded.shape)) for scan in scans)
        first = json_sha256([shapes, self.held_out_volumes])
        return f"{first}{SECOND_FINGERPRINT}{json_sha256(sorted(map(_made, scans)))}"

    @property
    def methods(self) -> list[str]:
        """Names of the methods whose volumes training sees; none where a scan of earlier versions does not say."""
        names = {str(scan.info.get("representation", "")) for scan in self.training}
        return [] if "" in names else sorted(names)

    @property
    def kinds(self) -> list[str]:
        """What training sees of volumes: slices, projections between the views, or both."""
        return sorted({str(scan.info.get("kind", "slices")) for scan in self.training})

    def _held_out(self, scans: list[ScanPairs]) -> set[str]:
        """Volumes that training does not see: those that were curated so, and those that are named, or a share."""
        curated = {_volume_of(scan) for scan in scans if scan.info.get("held_out")}
        if curated and not self.held_out:
            chosen: set[str] = set()
        else:
            chosen = held_out_volumes(_names(scans), self.held_out, self.held_out_share)
        if curated | chosen == {_volume_of(scan) for scan in scans}:
            raise ValueError("every curated volume is held out; leave some to train on.")
        return curated | chosen

    def _warn_of_what_is_missing(self) -> None:
        """Say that a prior takes what none of the pairs has, and so learns to do without it."""
        prior = getattr(self.trainer and self.trainer.lightning_module, "prior", None)
        missing = [
            name
            for name in ("residual", "noise")
            if getattr(prior, name, False)
            and all(getattr(scan, name) is None for scan in self.training)
        ]
        if missing and self.trainer.is_global_zero:
            logger.warning(
                "the prior takes the %s of each volume, which none of the pairs to train on has: it learns to do "
                "without; curate pairs with residual true, and with known noise for that of the residual",
                " and ".join(missing),
            )

    def _warn_of_other_projections(self, height: int, width: int) -> None:
        """Say that a prior learns from projections of another size than it is given when it repairs."""
        prior = getattr(self.trainer and self.trainer.lightning_module, "prior", None)
        edge = getattr(prior, "biplanar_size", None)
        looks = getattr(prior, "architecture", {}).get("biplanar", True)
        if looks and edge and {height, width} != {edge} and self.trainer.is_global_zero:
            logger.warning(
                "the pairs hold projections of %d x %d pixels, and the prior is given those of %d x %d when it "
                "repairs, as which it will not know them; curate pairs with biplanar_size %d",
                *(height, width, edge, edge, edge),
            )

    def _with_features(self, folders: dict[Path, dict[str, ScanPairs]]) -> list[ScanPairs]:
        """Scans of all folders, with features where the prior takes them."""
        prior = getattr(self.trainer and self.trainer.lightning_module, "prior", None)
        encoder = getattr(prior, "projection_encoder", None)
        if encoder is None:
            return [scan for named in folders.values() for scan in named.values()]
        device, home = self.trainer.strategy.root_device, encoder.mean.device
        encoder.to(device)
        scans = []
        for folder, named in folders.items():
            start = self.trainer.global_rank * len(named) // self.trainer.world_size
            scans += with_features(folder, named, encoder, device, start).values()
        encoder.to(home)
        return scans

    def train_dataloader(self) -> DataLoader[SlicePair]:
        """Batches of random crops from the module's iteration on."""
        total = self.iterations * self.batch_size
        done = self.trainer.lightning_module.iteration * self.batch_size
        return DataLoader(
            SlicePairDataset(
                self.training,
                total,
                rank=self.trainer.global_rank,
                world_size=self.trainer.world_size,
                chances=self._chances,
                **self.drawing,
            ),
            batch_size=self.batch_size,
            sampler=IterationSampler(total, start=done),
            num_workers=self.workers,
        )

    def val_dataloader(self) -> DataLoader[SlicePair | VolumePair] | list[Any]:
        """One batch for each held-out snapshot (and plane); processes share them whole."""
        if not self.validation:
            return []
        held_out: Dataset[Any] = (
            HeldOutVolumes(self.validation)
            if self.validate_on == "volumes"
            else HeldOutSlices(
                self.validation,
                slices=self.validation_slices,
                context=self.context,
                planes=self.validation_planes,
            )
        )
        mine = evenly_shared(len(held_out), self.trainer.global_rank, self.trainer.world_size)
        return DataLoader(held_out, batch_size=None, sampler=mine)


def _names(scans: Sequence[ScanPairs]) -> list[tuple[str, str]]:
    """Names of case and volume of scans."""
    return [(str(scan.info["case"]), _volume_of(scan)) for scan in scans]


def _volume_of(scan: ScanPairs) -> str:
    """Name of the volume that was scanned; older files say the case alone."""
    return str(scan.info.get("volume", scan.info["case"]))


def _made(scan: ScanPairs) -> str:
    """Return how a scan was made and some of what came of it, as text."""
    looked = [
        part.flatten()[:: max(1, part.numel() // LOOKED_AT)].tolist()
        for part in (scan.degraded, scan.clean)
    ]
    return json.dumps([scan.info, looked], sort_keys=True)
