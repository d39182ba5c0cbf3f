"""Clean slices and patches of volumes as Lightning data modules, from which denoisers learn."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from diffnr_lightning.constructed import Constructed
from diffnr_lightning.data.clean.draws import (
    HeldOutPatches,
    HeldOutStacks,
    PatchDraws,
    StackDraws,
)
from diffnr_lightning.data.clean.store import clean_volumes, fill_store
from diffnr_lightning.data.datamodules import IterationSampler, evenly_shared
from diffnr_lightning.data.pairs.hold_out import held_out_volumes
from diffnr_lightning.data.pairs.shares import drawing_chances
from diffnr_lightning.data.scan_recipe import ScanRecipe
from diffnr_lightning.files import json_sha256
from diffnr_lightning.planes import PLANE_NAMES, PlaneName

logger = logging.getLogger("diffnr")


class CleanVolumeData(Constructed, lightning.LightningDataModule):
    """Volumes for a denoiser, split into those it learns from and those it is judged on.

    One epoch is the whole run; it resumes where the module's `iteration` stands.

    Args:
        sources: name -> file, or a generated object such as `phantom:SEED`.
        iterations: batches of the run.
        batch_size: of a training batch.
        size: voxels along each edge of the cubes that volumes are resampled to.
        fit: cube around the whole volume, or around the body in it.
        voxel_mm: edge of their voxels in mm, instead of what `fit` gives.
        window_hu: HU that become 0 and 1.
        store: folder in which the resampled volumes are kept for the next training; null makes them anew.
        held_out: patterns (fnmatch) of names of volumes that are kept for validation.
        held_out_share: share of the volumes that is kept where `held_out` names none, see `held_out_volumes`.
        shares: of the draws by patterns of names, see `drawing_chances`; null draws every volume equally often.
        flips: whether left and right are exchanged at random.
        seed: of the draws.
        workers: processes that prepare batches; 0 prepares them in the training process.

    Attributes:
        held_out_volumes: names of the volumes that training does not see.

    Raises:
        ValueError: a count or share that makes no sense.
    """

    # Folders may be moved; a run compares what lies in them.
    FREE = ("sources", "store", "workers")

    def __init__(
        self,
        sources: Mapping[str, str],
        iterations: int = 10_000,
        batch_size: int = 16,
        size: int = 128,
        fit: Literal["volume", "body"] = "body",
        voxel_mm: float | None = None,
        window_hu: tuple[float, float] = (-1000.0, 1024.0),
        store: Path | None = None,
        held_out: Sequence[str] = (),
        held_out_share: float = 0.05,
        shares: dict[str, float] | None = None,
        flips: bool = True,
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        super().__init__()
        for name, count in (("iterations", iterations), ("batch_size", batch_size)):
            if count < 1:
                raise ValueError(f"{name} is {count}; at least 1 is expected.")
        if not 0 <= held_out_share < 1:
            raise ValueError(f"held_out_share is {held_out_share}; a share in [0, 1) is expected.")
        self.sources = dict(sources)
        self.iterations, self.batch_size = iterations, batch_size
        self.recipe = ScanRecipe(size=size, fit=fit, voxel_mm=voxel_mm, window_hu=window_hu)
        self.store = store
        self.held_out, self.held_out_share = tuple(held_out), held_out_share
        self.shares = dict(shares or {})
        self.drawing: dict[str, Any] = {"seed": seed, "flips": flips, "batch_size": batch_size}
        self._chances: Any = None
        self.workers = workers
        self.held_out_volumes: list[str] = []
        self.training: dict[str, Tensor] = {}
        self.validation: dict[str, Tensor] = {}

    def take(self, recipe: ScanRecipe) -> None:
        """Draw from the volumes of a recipe in the place of what `size`, `fit`, `voxel_mm` and `window_hu` say.

        Args:
            recipe: its cube and its window.

        Raises:
            ValueError: volumes that are too small for the batches.
        """
        self.recipe = recipe

    @abstractmethod
    def draws(self, rank: int, world_size: int) -> Dataset[Any]:
        """Return the training batches of one of the processes that share the run."""

    @abstractmethod
    def held_out_batches(self) -> Dataset[Any]:
        """Return the validation batches."""

    @abstractmethod
    def check_denoiser(self, denoiser: Any) -> None:
        """Refuse a denoiser that cannot take these batches.

        Args:
            denoiser: with the attributes that every denoiser has.

        Raises:
            ValueError: it cannot.
        """

    @property
    def content(self) -> str:
        """Fingerprint of the names of all volumes, and of those that are held out; known after `split`."""
        named = [sorted(self.sources), self.held_out_volumes]
        return json_sha256(named)

    def split(self) -> None:
        """Choose which volumes are held out and how often the others are drawn; none is read.

        Raises:
            ValueError: a pattern that matches none, or nothing left to train on.
        """
        names = [(name, name) for name in self.sources]
        held = held_out_volumes(names, self.held_out, self.held_out_share)
        trained = [pair for pair in names if pair[0] not in held]
        self._chances = drawing_chances(trained, self.shares)
        self.held_out_volumes = sorted(held)

    def prepare_data(self) -> None:
        """Make the files that the store lacks; Lightning calls it in one process of each node.

        Raises:
            FileNotFoundError: a file that does not exist.
            ValueError: a file that is no volume.
        """
        if self.store is not None:
            fill_store(self.sources, self.recipe, self.store, workers=self.workers)

    def setup(self, stage: str) -> None:
        """Read, resample and split the volumes, once.

        Raises:
            FileNotFoundError: a file that does not exist.
            ValueError: a file that is no volume, a store of other volumes, a pattern that matches none, or nothing left
                to train on.
        """
        if self.training:
            return
        self.split()
        if self.trainer is None or self.trainer.is_global_zero:
            logger.info("held out: %s", ", ".join(self.held_out_volumes) or "nothing")
        volumes = clean_volumes(self.sources, self.recipe, self.store)
        held = set(self.held_out_volumes)
        self.training = {name: v for name, v in volumes.items() if name not in held}
        self.validation = {name: v for name, v in volumes.items() if name in held}

    def train_dataloader(self) -> DataLoader[Any]:
        """Random batches from the module's iteration on."""
        start = self.trainer.lightning_module.iteration
        return DataLoader(
            self.draws(self.trainer.global_rank, self.trainer.world_size),
            sampler=IterationSampler(self.iterations, start),
            batch_size=None,
            num_workers=self.workers,
        )

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """The held-out batches; processes share them whole."""
        if not self.validation:
            return []
        batches = self.held_out_batches()
        mine = evenly_shared(len(batches), self.trainer.global_rank, self.trainer.world_size)
        return DataLoader(batches, batch_size=None, sampler=mine)


class CleanSliceData(CleanVolumeData):
    """Stacks of neighbouring slices of all planes, see `StackDraws`.

    Args:
        sources: name -> file, or a generated object such as `phantom:SEED`.
        channels: slices of a stack, as the denoiser's.
        gaps: between them, one of which is drawn for each stack; 0 repeats one slice in all channels.
        crops: edges in pixels, one of which is drawn for each batch.
        planes: of slicing.
        zoom: range of the magnification of every other stack.
        reach: pixels by which a crop may reach beyond the slice.
        empty_share: probability of keeping a drawn slice that shows nothing.
        validation_slices: slices of each held-out volume and plane.
        **shared: see `CleanVolumeData`.

    Raises:
        ValueError: a range, share or size that makes no sense.
    """

    def __init__(
        self,
        sources: Mapping[str, str],
        channels: int = 3,
        gaps: Sequence[int] = (0, 1, 3),
        crops: Sequence[int] = (64, 128),
        planes: Sequence[PlaneName] = PLANE_NAMES,
        zoom: tuple[float, float] = (0.8, 1.1),
        reach: int = 8,
        empty_share: float = 0.1,
        validation_slices: int = 6,
        **shared: Any,
    ) -> None:
        super().__init__(sources, **shared)
        if not crops or not all(1 <= crop <= self.recipe.size for crop in crops):
            raise ValueError(
                f"crops is {tuple(crops)}; edges from 1 to {self.recipe.size}, the size of the volumes, are expected."
            )
        if not gaps or min(gaps) < 0 or (channels == 1 and set(gaps) != {0}):
            raise ValueError(
                f"gaps is {tuple(gaps)} with {channels} channels; numbers of at least 0 are expected, and 0 alone with "
                "one channel."
            )
        if channels < 1 or validation_slices < 1 or not planes or reach < 0:
            raise ValueError(
                f"channels is {channels}, validation_slices {validation_slices}, planes {tuple(planes)} and reach "
                f"{reach}; at least one of each and a reach of at least 0 are expected."
            )
        if not 0 < zoom[0] <= zoom[1] or not 0 <= empty_share <= 1:
            raise ValueError(
                f"zoom is {tuple(zoom)} and empty_share {empty_share}; 0 < low <= high and a share in [0, 1] are "
                "expected."
            )
        self.stacks = {"channels": channels, "gaps": tuple(gaps), "planes": tuple(planes)}
        self.crops, self.validation_slices = tuple(crops), validation_slices
        self.drawing |= {"zoom": zoom, "reach": reach, "empty_share": empty_share}

    def check_denoiser(self, denoiser: Any) -> None:
        """Refuse a denoiser that cannot take these batches.

        Args:
            denoiser: with the attributes of a `UNetDenoiser`.

        Raises:
            ValueError: one of volumes, of other channels, one that knows fewer gaps, or one that would be taken to know
                single slices and is not going to.
        """
        channels, gaps = self.stacks["channels"], self.stacks["gaps"]
        if denoiser.dimensions != 2 or denoiser.channels != channels:
            raise ValueError(
                f"the denoiser takes {denoiser.channels} channels of {denoiser.dimensions} dimensions, the data are "
                f"stacks of {channels} slices; the two have to agree."
            )
        told = denoiser.gaps > 0 or len(set(gaps)) > 1
        if told and max(gaps) >= denoiser.gaps:
            raise ValueError(
                f"gaps of the data are {gaps}, and the denoiser knows those below {denoiser.gaps}; expected the "
                f"denoiser's gaps to be {max(gaps) + 1}."
            )
        if denoiser.alone and 0 not in gaps and channels > 1:
            raise ValueError(
                f"gaps of the data are {gaps}, and the denoiser says that it takes single slices; expected 0 among "
                "them, or the denoiser's alone to be false."
            )

    def draws(self, rank: int, world_size: int) -> StackDraws:
        """Return the training batches of one of the processes that share the run."""
        options = {**self.drawing, **self.stacks, "rank": rank, "world_size": world_size}
        options["chances"] = self._chances
        return StackDraws(self.training, self.iterations, crops=self.crops, **options)

    def held_out_batches(self) -> HeldOutStacks:
        """Return the validation batches."""
        options = {"slices": self.validation_slices, "crop": max(self.crops)}
        return HeldOutStacks(self.validation, **options, **self.stacks)


class CleanPatchData(CleanVolumeData):
    """Patches of volumes, see `PatchDraws`.

    Args:
        sources: name -> file, or a generated object such as `phantom:SEED`.
        patch: edge of a patch in voxels, as the denoiser's.
        validation_patches: patches along each edge of a held-out volume.
        **shared: see `CleanVolumeData`.

    Raises:
        ValueError: a size that makes no sense.
    """

    def __init__(
        self,
        sources: Mapping[str, str],
        patch: int = 32,
        validation_patches: int = 2,
        **shared: Any,
    ) -> None:
        super().__init__(sources, **shared)
        self.patch, self.validation_patches = patch, validation_patches
        self.take(self.recipe)

    def take(self, recipe: ScanRecipe) -> None:
        """Draw from the volumes of a recipe, see `CleanVolumeData.take`.

        Args:
            recipe: its cube and its window.

        Raises:
            ValueError: volumes with an edge that is shorter than a patch, or no patch.
        """
        super().take(recipe)
        shortest = min(recipe.shape)
        if not 1 <= self.patch <= shortest or self.validation_patches < 1:
            raise ValueError(
                f"patch is {self.patch} and validation_patches {self.validation_patches}; an edge from 1 to "
                f"{shortest}, the shortest of the volumes, and at least one patch are expected."
            )

    def check_denoiser(self, denoiser: Any) -> None:
        """Refuse a denoiser that cannot take these batches.

        Args:
            denoiser: with the attributes of a `PatchDenoiser`.

        Raises:
            ValueError: one of slices, or of patches of another size.
        """
        size = getattr(denoiser, "patch", None)
        if denoiser.dimensions != 3 or size != self.patch:
            raise ValueError(
                f"the denoiser has {denoiser.dimensions} dimensions and patches of {size}, the data patches of "
                f"{self.patch} in each of three; the two have to agree."
            )

    def draws(self, rank: int, world_size: int) -> PatchDraws:
        """Return the training batches of one of the processes that share the run."""
        options = {**self.drawing, "size": self.patch, "rank": rank, "world_size": world_size}
        options["chances"] = self._chances
        return PatchDraws(self.training, self.iterations, **options)

    def held_out_batches(self) -> HeldOutPatches:
        """Return the validation batches."""
        return HeldOutPatches(self.validation, size=self.patch, along=self.validation_patches)
