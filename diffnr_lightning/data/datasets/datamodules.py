"""LUNA16, ToothFairy and folders of volumes as Lightning data modules, each for all that learns or reconstructs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from glob import escape
from pathlib import Path
from typing import Any, Literal

import lightning
from torch import Tensor, device
from torch.utils.data import DataLoader, Dataset

from diffnr_lightning.constructed import Constructed
from diffnr_lightning.data.cases import Case
from diffnr_lightning.data.clean.store import clean_volumes, fill_store, recipe_key
from diffnr_lightning.data.clean_slices import CleanPatchData, CleanSliceData, CleanVolumeData
from diffnr_lightning.data.datamodules import OwnShare
from diffnr_lightning.data.datasets import luna16, toothfairy
from diffnr_lightning.data.datasets.dataset import DataSet, warn_once
from diffnr_lightning.data.datasets.registry import stricter
from diffnr_lightning.data.datasets.sources import load_source
from diffnr_lightning.data.datasets.volume_folder import volume_folder
from diffnr_lightning.data.scan_recipe import ScanRecipe
from diffnr_lightning.data.simulation import simulate_case
from diffnr_lightning.data.slice_pairs import SlicePairData
from diffnr_lightning.data.splits import SplitVolume

Split = Literal["train", "development", "test"]
Learned = Literal["pairs", "slices", "patches"]

CLEAN = {"slices": CleanSliceData, "patches": CleanPatchData}
BODY = ScanRecipe(fit="body")
SPLITS: tuple[Split, ...] = ("train", "development", "test")
# Options of slices and patches that the recipe and the sets of the data set stand for.
DECIDED = ("fit", "held_out", "size", "sources", "voxel_mm", "window_hu")


class Cases(Dataset[Case]):
    """Scan volumes one by one, each when it is asked for.

    Args:
        sources: name -> source, see `load_source`.
        recipe: of the scans.
    """

    def __init__(self, sources: Mapping[str, str], recipe: ScanRecipe) -> None:
        self.sources, self.recipe = dict(sources), recipe

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> Case:
        """Return the scan of one volume; its views and noise are drawn from its name."""
        name = list(self.sources)[index]
        return simulate_case(load_source(self.sources[name], self.recipe), self.recipe, name)


class _Told(Cases):
    """Scan volumes in workers; return why one cannot be scanned, since an error raised there would be a traceback."""

    def __getitem__(self, index: int) -> Case | Exception:
        try:
            return super().__getitem__(index)
        except (ValueError, OSError, ImportError) as error:
            return error


class _Loader(DataLoader[Case]):
    """Raise here what workers return of `_Told`."""

    def __iter__(self) -> Iterator[Case]:
        for scan in super().__iter__():
            if isinstance(scan, Exception):
                raise scan
            yield scan


class DataSetModule(Constructed, lightning.LightningDataModule):
    """Serve the three consumers of a data set from one object and one recipe.

    - *Scenes*: `cases("test")` gives the scans of a set one by one, as do `test_dataloader` and `predict_dataloader`.
    - *Finetuning*: with ``learn="pairs"`` the training and validation batches are those of `SlicePairData`, of folders
      that `diffnr curate` made of `sources("train")`.
    - *Denoisers*: with ``learn="slices"`` or ``"patches"`` they are those of `CleanSliceData` and `CleanPatchData`, of
      the training set, validated on the development set.

    The test set is never learned from.

    Args:
        dataset: what is known of the data set.
        recipe: of the scans; its cube and window are those of the slices and patches as well.
        learn: what batches are made of; None where nothing is trained.
        pairs: folders of `diffnr curate`, for ``learn="pairs"``.
        store: folder for resampled volumes, in a folder of its own for each data set and recipe; None makes them anew.
        workers: processes that prepare volumes and batches.
        **options: of `SlicePairData`, `CleanSliceData` or `CleanPatchData`, such as `iterations` and `batch_size`.

    Raises:
        ValueError: a variable that is not set, pairs without folders, options without `learn` or that recipe and sets
            decide, or patches that are larger than the volumes.
        FileNotFoundError: a data set that is not there.
    """

    # Of fewer scans than processes some get none.
    allow_zero_length_dataloader_with_multiple_devices = True

    # Folders may be moved; a run compares what lies in them.
    FREE = ("pairs", "store", "workers")

    def __init__(
        self,
        dataset: DataSet,
        recipe: ScanRecipe,
        learn: Learned | None = None,
        pairs: Sequence[Path] = (),
        store: Path | None = None,
        workers: int = 0,
        **options: Any,
    ) -> None:
        super().__init__()
        self.dataset, self.recipe, self.workers = dataset, recipe, workers
        folder = dataset.name.replace("/", "_").replace(":", "")
        self.store = None if store is None else Path(store) / f"{folder}-{recipe_key(recipe)}"
        self.batches = self._batches(learn, pairs, options)
        if self.batches is not None:
            # Modules and callbacks look for them here.
            self.batch_size, self.iterations = self.batches.batch_size, self.batches.iterations

    def sources(self, split: Split) -> dict[str, str]:
        """Return name -> source of the volumes of a set that are there.

        What a folder has for training and a split of the package keeps for development or test is in no set, nor is
        what it has for development and a split keeps for test: a warning names it.

        Args:
            split: train, development or test.

        Raises:
            ValueError: another word.
        """
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; one of {', '.join(SPLITS)} is expected.")
        there = self.dataset.files()
        found = [e for e in self.dataset.volumes() if e.set == split and e.name in there]
        kept = [] if self.dataset.folder is None else self._kept(found, there)
        if kept:
            warn_once(
                f"{self.dataset.name}:{split} has {len(kept)} volumes that the splits keep from it, such as {kept[0]}; "
                "they are left out"
            )
        return {entry.name: entry.volume for entry in found if entry.name not in kept}

    @staticmethod
    def _kept(found: Sequence[SplitVolume], files: Mapping[str, Path]) -> list[str]:
        """Return the names of volumes that a split of the package puts into a stricter set."""
        return [entry.name for entry in found if stricter(entry, files[entry.name]) is not entry]

    def cases(self, split: Split = "test") -> Iterator[Case]:
        """Scan the volumes of a set one by one.

        Args:
            split: train, development or test.
        """
        scans = Cases(self.sources(split), self.recipe)
        return (scans[index] for index in range(len(scans)))

    def volumes(self, split: Split) -> dict[str, Tensor]:
        """Return the normalised volumes of a set, (Z, Y, X) float16 in [0, 1], mapped where there is a store.

        Args:
            split: train, development or test.
        """
        return clean_volumes(self.sources(split), self.recipe, self.store)

    def prepare(self, split: Split, shard: tuple[int, int] = (0, 1)) -> None:
        """Make the volumes of a set that the store lacks.

        Args:
            split: train, development or test.
            shard: part and number of parts; part K of N takes every Nth volume.

        Raises:
            ValueError: no store.
        """
        if self.store is None:
            raise ValueError("store is None; a folder for the resampled volumes is expected.")
        fill_store(self.sources(split), self.recipe, self.store, shard, self.workers)

    def prepare_data(self) -> None:
        """Make what batches are drawn of, in one process of each node; nodes with one store share the work."""
        if self.batches is not None:
            self.batches.prepare_data()

    def setup(self, stage: str) -> None:
        """Read what batches are drawn of.

        Raises:
            FileNotFoundError: no pairs, or a volume that is gone.
            ValueError: damaged files, or nothing left to train on.
        """
        if self.batches is not None and stage in ("fit", "validate"):
            self.batches.trainer = self.trainer
            self.batches.setup(stage)

    def train_dataloader(self) -> DataLoader[Any]:
        """Training batches from the module's iteration on.

        Raises:
            ValueError: nothing is to be learned.
        """
        if self.batches is None:
            raise ValueError("learn is None; 'pairs', 'slices' or 'patches' is expected to train.")
        return self.batches.train_dataloader()

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Batches of the development set."""
        return [] if self.batches is None else self.batches.val_dataloader()

    def test_dataloader(self) -> DataLoader[Case]:
        """The scans of the test set one by one; processes share them."""
        return self._scans("test")

    def predict_dataloader(self) -> DataLoader[Case]:
        """The scans of the test set one by one; processes share them."""
        return self._scans("test")

    def transfer_batch_to_device(self, batch: Any, device: device, dataloader_idx: int) -> Any:
        """Leave scans where they are: what reconstructs them says which of it goes to the device."""
        if isinstance(batch, Case):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def _scans(self, split: Split) -> DataLoader[Case]:
        scans = (_Told if self.workers else Cases)(self.sources(split), self.recipe)
        rank, count = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        mine = OwnShare(range(rank, len(scans), count))
        # A forked process cannot compute with the threads of this one.
        context = "forkserver" if self.workers else None
        return _Loader(
            scans,
            batch_size=None,
            sampler=mine,
            num_workers=self.workers,
            multiprocessing_context=context,
        )

    def _batches(
        self, learn: Learned | None, pairs: Sequence[Path], options: dict[str, Any]
    ) -> SlicePairData | CleanVolumeData | None:
        """The data module whose batches are given on."""
        if learn is None:
            if options or pairs:
                raise ValueError(
                    f"{', '.join(options) or 'pairs'} is given and learn is None; 'pairs', 'slices' or 'patches' is "
                    "expected."
                )
            return None
        if learn == "pairs":
            if not pairs:
                raise ValueError(
                    f"learn is 'pairs' without folders of them; make one with `diffnr curate --volumes "
                    f"{self.dataset.name}:train` and name it."
                )
            return SlicePairData(pairs, workers=self.workers, **options)
        if learn not in CLEAN:
            raise ValueError(f"learn is {learn!r}; 'pairs', 'slices' or 'patches' is expected.")
        if decided := sorted(options.keys() & set(DECIDED)):
            raise ValueError(
                f"{decided[0]} is given beside a recipe and the sets of {self.dataset.name}, which decide it; give it "
                "with the recipe, or leave it out."
            )
        held_out = self.sources("development")
        make: Callable[..., Any] = CLEAN[learn]
        data = make(
            {**self.sources("train"), **held_out},
            size=self.recipe.size,
            held_out=[escape(name) for name in held_out],  # names, no patterns
            store=self.store,
            workers=self.workers,
            **options,
        )
        data.take(self.recipe)
        return data


class LUNA16(DataSetModule):
    """The 888 chests of LUNA16, split 838/25/25 by patient (`data/splits/luna16.csv`), see `DataSetModule`.

    DIFFNR_LUNA16 names the folder that holds subset0 to subset9.

    Args:
        recipe: of the scans; `configs/data/luna16.yaml` by default, which says how it differs from DiffNR's.
        **shared: see `DataSetModule`.

    Source: the numbers are those of DiffNR, whose authors published no list; `datasets.luna16` says by which rule ours
    is made.
    """

    def __init__(self, recipe: ScanRecipe = luna16.RECIPE, **shared: Any) -> None:
        super().__init__(luna16.DATA_SET, recipe, **shared)


class ToothFairy(DataSetModule):
    """The jaws of ToothFairy, 2 or 3; of the 443 of the first challenge 393/25/25, see `DataSetModule`.

    DIFFNR_TOOTHFAIRY names the folder that holds P1, P2, ... or imagesTr. Patients come in the order of the SHA-256 of
    ``"0 P12"``; the first 25 are tested, the next 25 are for development (fewer where there are fewer than 443).

    Args:
        recipe: of the scans; `configs/data/toothfairy.yaml` by default.
        **shared: see `DataSetModule`.
    """

    def __init__(self, recipe: ScanRecipe = toothfairy.RECIPE, **shared: Any) -> None:
        super().__init__(toothfairy.DATA_SET, recipe, **shared)


class VolumeFolder(DataSetModule):
    """Everything below a folder that can be read, see `DataSetModule`.

    Args:
        folder: its `split.csv`, in the columns of `data/splits`, says what each volume is for; without one a tenth each
            is for development and for test, by the rule of the other data sets.
        recipe: of the scans.
        split: a file of `data/splits` that says so instead: ``VolumeFolder(folder, split="diffnr")`` are the files of
            this project's own tables, `experiments/main_job`.
        **shared: see `DataSetModule`.
    """

    def __init__(
        self,
        folder: Path,
        recipe: ScanRecipe = BODY,
        split: str | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(volume_folder(folder, split), recipe, **shared)
