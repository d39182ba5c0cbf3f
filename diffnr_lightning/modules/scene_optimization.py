"""Fit one representation to one scan: the inner part of DiffNR's Algorithm 1."""

from __future__ import annotations

from typing import Any, Literal

import lightning
import torch
from torch import Tensor

from diffnr_lightning.batches import ViewBatch
from diffnr_lightning.draws import generator_at
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.losses import SsimReference, l1, ssim_2d, ssim_3d, tv_3d
from diffnr_lightning.modules.novel_views import NovelViews
from diffnr_lightning.representations import Representation

_NOVEL_STREAM = 1 << 40


class SceneOptimization(lightning.LightningModule):
    """Optimise a representation so that its renderings match the measured projections.

    Attributes that callbacks may use:
        representation: the learnable volume, in normalised attenuation v.
        scan: geometry of the measured views.
        grid: voxels of the volume that is wanted.
        iteration: number of the current batch, counted from 1; after a batch, the batches done.
        novel: views that nobody has measured but batches take as if they were, or None; see `add_novel_views`.
        reference: pseudo-reference volume (Z, Y, X), or None; written by the callback `PseudoReference`.
        start: volume (Z, Y, X) that the representation began with, if it is known; written by the workflow.
        query_volume(): the current volume (Z, Y, X).

    Args:
        representation: what is optimised.
        scan: geometry of the measured views.
        grid: voxels of the volume that is wanted.
        seed: with the iteration, seeds the random sub-volumes, so that a resumed run draws the same ones.
        lambda_ssim: weight of 1 - SSIM between rendered and measured projections.
        lambda_tv: weight of the total variation of a random sub-volume.
        tv_size: edge of that sub-volume in voxels, two at least.
        tv_every: batches between two of them, each of which counts that much more: a sub-volume of Gaussians takes as
            long as a view.
        lambda_diff: weight of the distance to the pseudo-reference.
        reference_every: batches between two uses of the pseudo-reference (tau).
        reference_loss: 3D SSIM as in the paper, or the voxel L1 of its Table 5.
        reference_size: edge in voxels of the random cube that is compared with the reference; 0 is the whole volume.
        novel_share: share of the batches whose views are novel ones, once there are any.
        lambda_novel: weight of the distance of their renderings, beside 1 of measured ones.
        rate_scale: factor on the learning rates of the representation's parameter groups.
        rate_decay: factor that the learning rates have lost after `rate_iterations`, log-linearly.
        rate_iterations: length of that decay in batches.

    Raises:
        ValueError: a negative weight, a count that is too small, a rate_decay that is not positive, another
            reference_loss, or a share outside [0, 1].

    Source: Algorithm 1 of DiffNR; L1 / SSIM / TV weights 1 / 0.25 / 0.05 and the 32^3 sub-volume are R2-Gaussian's,
    lengths as there in units of half the volume's largest edge; lambda_diff 0.5 and tau 10 are DiffNR's Table 6;
    share and weight of novel views are those of Difix3D+.
    Deviation: `reference_size` other than 0 compares a random cube only, which makes a use of the reference cheap
    enough for tau = 1.
    """

    def __init__(
        self,
        representation: Representation,
        scan: ScanGeometry,
        grid: VolumeGrid,
        seed: int = 0,
        *,
        lambda_ssim: float = 0.25,
        lambda_tv: float = 0.05,
        tv_size: int = 32,
        tv_every: int = 1,
        lambda_diff: float = 0.5,
        reference_every: int = 10,
        reference_loss: Literal["ssim", "l1"] = "ssim",
        reference_size: int = 0,
        novel_share: float = 0.3,
        lambda_novel: float = 0.3,
        rate_scale: float = 1.0,
        rate_decay: float = 0.1,
        rate_iterations: int = 30_000,
    ) -> None:
        super().__init__()
        for name, count, least in (
            ("rate_iterations", rate_iterations, 1),
            ("reference_every", reference_every, 1),
            ("tv_size", tv_size, 2),  # a single voxel has no neighbour
            ("tv_every", tv_every, 1),
        ):
            if count < least:
                raise ValueError(f"{name} is {count}; at least {least} is expected.")
        if not rate_decay > 0:
            raise ValueError(
                f"rate_decay is {rate_decay}; a positive factor is expected: 1 keeps the learning rates."
            )
        if min(lambda_ssim, lambda_tv, lambda_diff, lambda_novel, reference_size) < 0:
            raise ValueError(
                "lambda_ssim, lambda_tv, lambda_diff, lambda_novel and reference_size are "
                f"{lambda_ssim}, {lambda_tv}, {lambda_diff}, {lambda_novel} and {reference_size}; none may be negative."
            )
        if reference_loss not in ("ssim", "l1"):
            raise ValueError(f"reference_loss is {reference_loss!r}; 'ssim' or 'l1' is expected.")
        if not 0 <= novel_share <= 1:
            raise ValueError(f"novel_share is {novel_share}; a share in [0, 1] is expected.")
        self.representation = representation
        self.scan = scan
        self.grid = grid
        self.lambda_ssim = lambda_ssim
        self.lambda_tv = lambda_tv
        self.tv_size = tv_size
        self.tv_every = tv_every
        self.lambda_diff = lambda_diff
        self.reference_every = reference_every
        self.reference_loss = reference_loss
        self.reference_size = reference_size
        self.novel_share = novel_share
        self.lambda_novel = lambda_novel
        self.rate_scale = rate_scale
        self.rate_decay = rate_decay
        self.rate_iterations = rate_iterations
        self.seed = seed
        self.iteration = 0
        self.reference: Tensor | None = None
        self.start: Tensor | None = None
        self.novel: NovelViews | None = None
        self._prepared: tuple[Tensor, SsimReference | None, Tensor] | None = None
        # Projections in units of half the largest edge, the scale for which the weights were chosen.
        self.length_scale = 2.0 / max(grid.size_mm)

    def transfer_batch_to_device(
        self, batch: ViewBatch, device: torch.device, dataloader_idx: int
    ) -> ViewBatch:
        """Bring a batch to a device but for its views: the geometry is on the host and asks for them."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return moved._replace(view=batch.view)

    def training_step(self, batch: ViewBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch of views."""
        self.iteration += 1
        smoothed = self.lambda_tv > 0 and self.iteration % self.tv_every == 0
        compared = self.reference is not None and self.iteration % self.reference_every == 0
        batch, views, share = self._seen(batch)
        scan = views[batch.view].window(batch.rows, batch.columns)
        grids = [self._random_cube(self.tv_size)[0]] if smoothed else []
        if compared:
            grids.append(self._compared_part()[0])
        rendered, volumes = self.representation.evaluate(scan, grids)
        loss = share * self._image_loss(
            self.length_scale * rendered, self.length_scale * batch.projection, batch.weights
        )
        if smoothed:
            loss = loss + self.tv_every * self.lambda_tv * tv_3d(volumes[0])
        if compared:
            loss = loss + self.lambda_diff * self.reference_distance(volumes[-1])
        return loss

    def add_novel_views(self, scan: ScanGeometry, projections: Tensor) -> None:
        """Let batches take these views too, as if they had been measured.

        Args:
            scan: where they lie; the detector is that of the measured ones.
            projections: (N, H, W) line integrals.

        Raises:
            ValueError: another number of projections than views.
        """
        added = NovelViews.of(scan, projections)
        self.novel = added if self.novel is None else self.novel.joined(added)

    def _seen(self, batch: ViewBatch) -> tuple[ViewBatch, ScanGeometry, float]:
        """Return the views that are compared, their scan and their weight: measured ones, or novel ones in their place.

        What comes is drawn from (seed, iteration).
        """
        if self.novel is None:
            return batch, self.scan, 1.0
        # Another stream than that of the cubes.
        generator = generator_at(self.seed, self.iteration, stream=_NOVEL_STREAM)
        if torch.rand((), generator=generator) >= self.novel_share:
            return batch, self.scan, 1.0
        novel = torch.randint(len(self.novel.scan), batch.view.shape, generator=generator)
        # One by one: a GPU is waited for where a tensor of the host says which of them are taken.
        shown = torch.stack(
            [self.novel.projections[k, batch.rows, batch.columns] for k in novel.tolist()]
        )
        drawn = batch._replace(view=novel, projection=shown, weights=None)
        return drawn, self.novel.scan, self.lambda_novel

    def _image_loss(self, rendered: Tensor, measured: Tensor, weights: Tensor | None) -> Tensor:
        """Return the distance of rendered from measured projections (B, H, W), lengths in half edges."""
        if weights is None:
            loss = l1(rendered, measured)
        else:
            loss = l1(weights * rendered, weights * measured)
            # What rays without light hold is no structure: there the rendering is its own reference.
            measured = torch.lerp(rendered.detach(), measured, weights.clamp(max=1.0))
        if self.lambda_ssim:
            loss = loss + self.lambda_ssim * (1 - ssim_2d(rendered, measured).mean())
        return loss

    def reference_distance(self, volume: Tensor) -> Tensor:
        """Return the distance of the current volume from the pseudo-reference, 0 where they agree.

        Args:
            volume: (z, y, x), the part of the current volume that this iteration compares.
        """
        part = self._compared_part()[1]
        reference = self.reference[part]
        if self.reference_loss == "l1":
            return l1(volume, reference)
        prepared, occupied = self._prepared_reference()
        if not occupied[part].any():
            # Where the reference shows nothing there is no structure to compare.
            return l1(volume, reference)
        if prepared is None:
            prepared = SsimReference(reference, occupied=occupied[part])
        return 1 - ssim_3d(volume, prepared)

    def query_volume(self) -> Tensor:
        """Return the current volume (Z, Y, X) in normalised attenuation."""
        return self.representation.query(self.grid)

    def configure_optimizers(self) -> dict[str, Any]:
        """Return Adam with the representation's parameter groups and a log-linear decay.

        After each of its steps the representation is brought back into its range.
        """
        groups = [
            {**group, "lr": group["lr"] * self.rate_scale}
            for group in self.representation.parameter_groups()
        ]
        optimizer = torch.optim.Adam(groups, eps=1e-15, fused=True)
        optimizer.register_step_post_hook(lambda *_: self.representation.constrain())
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.rate_decay ** min(step / self.rate_iterations, 1.0)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the parameters alone do not say: iteration, reference and geometry."""
        checkpoint["scene"] = {
            "iteration": self.iteration,
            "reference": self.reference,
            "novel": None if self.novel is None else self.novel.state(),
            "grid": repr(self.grid),
            "scan": repr(self.scan),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up a run: refuse another geometry, give the representation the size it had.

        Raises:
            ValueError: the checkpoint was written for another grid or scan.
        """
        scene = checkpoint["scene"]
        for name, ours in (("grid", repr(self.grid)), ("scan", repr(self.scan))):
            if scene[name] != ours:
                raise ValueError(
                    f"the checkpoint was written for another {name}; start a new run folder for this case."
                )
        self.iteration = scene["iteration"]
        self.reference = scene["reference"]
        # Checkpoints of earlier versions have none.
        novel = scene.get("novel")
        self.novel = None if novel is None else NovelViews.from_state(novel)
        if hasattr(self.representation, "resize"):
            self._resize(checkpoint["state_dict"])

    def _resize(self, state: dict[str, Tensor]) -> None:
        """Give the representation as many parts as a state has positions, or else entries, all of one length."""
        kept = {key: value for key, value in state.items() if key.startswith("representation.")}
        positions = kept.get("representation.positions")
        told = kept.values() if positions is None else [positions]
        sizes = {len(value) if value.ndim else None for value in told}
        if len(sizes) == 1 and None not in sizes:
            self.representation.resize(sizes.pop())

    def on_train_start(self) -> None:
        """Bring what a checkpoint holds beside the parameters to their device; Lightning leaves it on the CPU."""
        if self.reference is not None:
            self.reference = self.reference.to(self.device)
        if self.novel is not None:
            self.novel = self.novel.to(self.device)

    def _compared_part(self) -> tuple[VolumeGrid, tuple[slice, ...]]:
        """Return the grid and the slices of what is compared with the reference in this iteration."""
        if self.reference_size:
            return self._random_cube(self.reference_size)
        return self.grid, (slice(None),) * 3

    def _prepared_reference(self) -> tuple[SsimReference | None, Tensor]:
        """Return the reference for SSIM, unless its cubes are compared, and where it is above zero, on the CPU.

        Both are made once for each reference, since asking a device for the latter waits for it.
        """
        if self._prepared is None or self._prepared[0] is not self.reference:
            occupied = (self.reference > 0).cpu()
            whole = not self.reference_size and bool(occupied.any())
            prepared = SsimReference(self.reference, occupied=occupied) if whole else None
            self._prepared = (self.reference, prepared, occupied)
        return self._prepared[1:]

    def _random_cube(self, size: int) -> tuple[VolumeGrid, tuple[slice, ...]]:
        """Return the grid and the slices of a random cube of voxels, drawn from (seed, iteration)."""
        generator = generator_at(self.seed, self.iteration)
        shape = tuple(min(size, n) for n in self.grid.shape)
        start = tuple(
            int(torch.randint(n - s + 1, (1,), generator=generator))
            for n, s in zip(self.grid.shape, shape, strict=True)
        )
        return self.grid.crop(start, shape), tuple(
            slice(a, a + s) for a, s in zip(start, shape, strict=True)
        )
