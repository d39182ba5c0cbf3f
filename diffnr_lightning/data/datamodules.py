"""Views of one scan as a Lightning data module whose order survives an interruption."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from diffnr_lightning.batches import ViewBatch
from diffnr_lightning.photons import PhotonCounts, ray_factors


class OwnShare(DistributedSampler[int]):
    """Yield the places that a process has chosen itself; Lightning shares out what other samplers yield once more.

    Args:
        places: of what this process loads.
    """

    def __init__(self, places: Sequence[int]) -> None:
        # Not that of the base, which asks for the number of processes and divides among them.
        self.places = places

    def __iter__(self) -> Iterator[int]:
        """Yield the places in their order."""
        return iter(self.places)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.places)


def evenly_shared(count: int, rank: int, world_size: int) -> OwnShare:
    """Return the held-out batches of a process; all processes together see each equally often.

    A process without any would not ask for the common scores, for which the others would wait for ever. So each takes
    all of them where there are fewer batches than processes.

    Args:
        count: of the batches, at least one.
        rank: of the process.
        world_size: processes that share the run.
    """
    return OwnShare(range(rank, count, world_size) if count >= world_size else range(count))


class IterationSampler(OwnShare):
    """Count iterations, beginning where an interrupted run stopped.

    A shuffling sampler starts its epoch anew after a resume and replays views already seen. This
    one yields the number of the iteration, and what an iteration sees is a function of (seed,
    number). Its length stays the whole, because Lightning adds the batches done before when it
    asks whether the epoch is over.

    Args:
        total: iterations of the whole run.
        start: iterations done before.

    Raises:
        ValueError: no iteration, or a start outside the run.
    """

    def __init__(self, total: int, start: int = 0) -> None:
        if total < 1:
            raise ValueError(f"iterations is {total}; at least one is expected.")
        if not 0 <= start <= total:
            raise ValueError(
                f"the run is to start at iteration {start}, but it has {total}; a resumed run "
                f"needs "
                "at least as many iterations as were done."
            )
        super().__init__(range(start, total))
        self.total, self.start = total, start

    def __len__(self) -> int:
        return self.total


@dataclass(frozen=True)
class RaySampling:
    """Say which pixels an iteration uses, where a whole view has too many rays.

    Each iteration uses one window, the same in all its views, and both terms of the image loss
    are computed on it. A *patch* is a dense window at a random place. Any other window is *spread*:
    every n-th row and column of the whole detector from a random one on, with the least n that
    keeps to the size; each pixel is seen equally often. A spread window is a small image of the
    whole view, so that structural similarity means something on it too, on a coarser scale.

    Measured with NAF on a 64^3 phantom, 24 views without noise, 200 iterations of about 1024 rays:
    spread windows without the structural term 28.62 dB, with it 28.80 dB, with patches in a quarter
    of the iterations 28.71 dB, in half of them 28.65 dB. So all windows are spread unless said
    otherwise. On noisy views the structural term follows the noise (configs/reconstruct/naf.yaml).

    Args:
        rows: most rows of a window.
        columns: most columns of a window.
        patches: share of the iterations that use a patch, from 0 to 1.

    Raises:
        ValueError: an empty window, or a share outside of [0, 1].

    Source: windows with random steps are those of GRAF (Schwarz et al., NeurIPS 2020, section 3.2);
    SAX-NeRF (CVPR 2024) joins patches and single rays in one batch.
    """

    rows: int = 32
    columns: int = 32
    patches: float = 0.0

    def __post_init__(self) -> None:
        if min(self.rows, self.columns) < 1:
            raise ValueError(
                f"rows and columns are {self.rows} and {self.columns}; at least one is expected."
            )
        if not 0 <= self.patches <= 1:
            raise ValueError(f"patches is {self.patches}; a share from 0 to 1 is expected.")

    def draw(
        self, detector_shape: tuple[int, int], generator: np.random.Generator
    ) -> tuple[slice, slice]:
        """Return the rows and the columns of a random window of a detector (H, W)."""
        patch = generator.random() < self.patches
        rows, columns = (
            _dense(most, count, generator) if patch else _spread(most, count, generator)
            for most, count in zip((self.rows, self.columns), detector_shape, strict=True)
        )
        return rows, columns


class ViewDraws(Dataset[ViewBatch]):
    """Give the views of iteration i as a function of (seed, i).

    Views come without replacement: pass k over the scan follows the permutation drawn from
    (seed, k). Processes that share a run take turns along the same sequence. The window of the
    detector, where there is a choice, is drawn from (seed, i, process) too.

    Args:
        projections: (V, H, W) line integrals.
        seed: of the permutations and windows.
        batch_size: views an iteration and process.
        rank: number of this process.
        world_size: processes that share the run.
        rays: which pixels an iteration uses; None is all.
        weights: (V, H, W) factors on the differences from the projections; None is 1.
    """

    def __init__(
        self,
        projections: Tensor,
        seed: int,
        batch_size: int = 1,
        rank: int = 0,
        world_size: int = 1,
        rays: RaySampling | None = None,
        weights: Tensor | None = None,
    ) -> None:
        self.projections, self.weights = projections, weights
        self.seed, self.batch_size = seed, batch_size
        self.rank, self.world_size = rank, world_size
        self.rays = rays
        self._order = lru_cache(maxsize=2)(self._permutation)

    def __getitem__(self, iteration: int) -> ViewBatch:
        """Return the views of one iteration."""
        first = (iteration * self.world_size + self.rank) * self.batch_size
        count = len(self.projections)
        draws = (divmod(first + offset, count) for offset in range(self.batch_size))
        views = [int(self._order(k)[place]) for k, place in draws]
        rows, columns = slice(None), slice(None)
        if self.rays is not None:
            generator = np.random.default_rng([self.seed, iteration, self.rank, 1])
            rows, columns = self.rays.draw(tuple(self.projections.shape[1:]), generator)
        # A GPU is waited for where a tensor of the host says which views of it are taken.
        window, weights = (
            None if images is None else torch.stack([images[view, rows, columns] for view in views])
            for images in (self.projections, self.weights)
        )
        return ViewBatch(torch.tensor(views), window, rows, columns, weights)

    def _permutation(self, pass_number: int) -> np.ndarray:
        return np.random.default_rng([self.seed, pass_number]).permutation(len(self.projections))


class ScanData(lightning.LightningDataModule):
    """Feed one scan to its optimisation: one long epoch of `iterations` batches.

    Args:
        projections: (V, H, W) line integrals.
        seed: of the order of views.
        iterations: batches of the whole run.
        batch_size: views a batch.
        rays: which pixels a batch uses; None is all.
        features: (1, 2, F) features of two projections that came with the scan; the callback that calls the prior
            hands them on.
        weights: (V, H, W) statistical weights of the rays; batches bring the factors on differences that come of
            them (`ray_factors`), the callback that calls the prior hands them on. None takes all rays alike.
        photons: what was counted, which that callback hands on too; None where it is not known.

    Attributes:
        iteration: batches handed to the module so far; kept in checkpoints.

    Raises:
        ValueError: projections that are not (V, H, W), no iteration, an empty batch, or weights
            of another shape.
    """

    def __init__(
        self,
        projections: Tensor,
        *,
        seed: int,
        iterations: int,
        batch_size: int = 1,
        rays: RaySampling | None = None,
        features: Tensor | None = None,
        weights: Tensor | None = None,
        photons: PhotonCounts | None = None,
    ) -> None:
        super().__init__()
        if projections.ndim != 3:
            raise ValueError(
                f"projections have shape {tuple(projections.shape)}; (V, H, W) is expected."
            )
        if iterations < 1:
            raise ValueError(f"iterations is {iterations}; at least one is expected.")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; at least one is expected.")
        if weights is not None and weights.shape != projections.shape:
            raise ValueError(
                f"weights have shape {tuple(weights.shape)}; {tuple(projections.shape)}, that of the "
                "projections, is expected."
            )
        self.projections, self.weights, self.photons = projections, weights, photons
        self.seed, self.iterations, self.batch_size = seed, iterations, batch_size
        self.rays = rays
        self.features = features
        self.iteration = 0

    def setup(self, stage: str) -> None:
        """Begin to count anew: the data may serve several fits; a resume restores the count after this."""
        if stage == "fit":
            self.iteration = 0

    def train_dataloader(self) -> DataLoader:
        """Return the loader of what is left of the run; loading is indexing, so no workers."""
        rank, world_size = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        views = ViewDraws(
            self.projections,
            self.seed,
            self.batch_size,
            rank,
            world_size,
            self.rays,
            None if self.weights is None else ray_factors(self.weights, self.projections),
        )
        sampler = IterationSampler(self.iterations, self.iteration)
        return DataLoader(views, sampler=sampler, batch_size=None, num_workers=0)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Count the training batches as the module receives them."""
        if self.trainer is not None and self.trainer.training:
            self.iteration += 1
        return batch

    def state_dict(self) -> dict[str, int]:
        """Return what a resumed run needs to go on with the next views."""
        return {"iteration": self.iteration, "seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue after the iteration of a checkpoint.

        Raises:
            ValueError: the checkpoint's views were drawn with another seed.
        """
        if state_dict["seed"] != self.seed:
            raise ValueError(
                f"the checkpoint drew its views with seed {state_dict['seed']}, this run with "
                f"{self.seed}; resume with the same seed."
            )
        self.iteration = int(state_dict["iteration"])


def _dense(most: int, count: int, generator: np.random.Generator) -> slice:
    kept = min(most, count)
    start = int(generator.integers(count - kept + 1))
    return slice(start, start + kept, 1)


def _spread(most: int, count: int, generator: np.random.Generator) -> slice:
    step = -(-count // most)
    return slice(int(generator.integers(step)), count, step)
