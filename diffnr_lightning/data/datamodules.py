"""Views of one scan as a Lightning data module whose order survives an interruption."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from diffnr_lightning.batches import ViewBatch


class IterationSampler(Sampler[int]):
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
        self.total, self.start = total, start

    def __iter__(self) -> Iterator[int]:
        """Yield the iterations that are left, from `start`."""
        return iter(range(self.start, self.total))

    def __len__(self) -> int:
        return self.total


class ViewDraws(Dataset[ViewBatch]):
    """Give the views of iteration i as a function of (seed, i).

    Views come without replacement: pass k over the scan follows the permutation drawn from
    (seed, k). Processes that share a run take turns along the same sequence.

    Args:
        projections: (V, H, W) line integrals.
        seed: of the permutations.
        batch_size: views an iteration and process.
        rank: number of this process.
        world_size: processes that share the run.
    """

    def __init__(
        self,
        projections: Tensor,
        seed: int,
        batch_size: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.projections = projections
        self.seed, self.batch_size = seed, batch_size
        self.rank, self.world_size = rank, world_size
        self._order = lru_cache(maxsize=2)(self._permutation)

    def __getitem__(self, iteration: int) -> ViewBatch:
        """Return the views of one iteration."""
        first = (iteration * self.world_size + self.rank) * self.batch_size
        count = len(self.projections)
        draws = (divmod(first + offset, count) for offset in range(self.batch_size))
        views = torch.tensor([int(self._order(k)[place]) for k, place in draws])
        return ViewBatch(views, self.projections[views])

    def _permutation(self, pass_number: int) -> np.ndarray:
        return np.random.default_rng([self.seed, pass_number]).permutation(len(self.projections))


class ScanData(lightning.LightningDataModule):
    """Feed one scan to its optimisation: one long epoch of `iterations` batches.

    Args:
        projections: (V, H, W) line integrals.
        seed: of the order of views.
        iterations: batches of the whole run.
        batch_size: views a batch.

    Attributes:
        iteration: batches handed to the module so far; kept in checkpoints.

    Raises:
        ValueError: projections that are not (V, H, W), no iteration, or an empty batch.
    """

    def __init__(
        self, projections: Tensor, *, seed: int, iterations: int, batch_size: int = 1
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
        self.projections = projections
        self.seed, self.iterations, self.batch_size = seed, iterations, batch_size
        self.iteration = 0

    def train_dataloader(self) -> DataLoader:
        """Return the loader of what is left of the run; loading is indexing, so no workers."""
        rank, world_size = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        views = ViewDraws(self.projections, self.seed, self.batch_size, rank, world_size)
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
