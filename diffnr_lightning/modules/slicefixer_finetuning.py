"""SliceFixerFinetuning: teaches a prior to turn degraded slices into clean ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from diffnr_lightning.batches import SlicePair
from diffnr_lightning.losses import discriminator_adversarial, generator_adversarial, ssim_2d
from diffnr_lightning.priors import Conditioning, PatchDiscriminator, WeightAverage, save_prior


class SliceFixerFinetuning(lightning.LightningModule):
    """Adversarial finetuning of a prior on pairs of slices.

    The loss of the prior is

        L = lambda_l2 L2 + lambda_l1 L1 + lambda_ssim (1 - SSIM) + lambda_gan L_GAN

    between its repair of the degraded slice and the clean one. Both optimisers step once a batch,
    the prior's first; an average of the prior's weights follows its steps and is what validation
    and export use.

    Attributes:
        prior: network that is trained: `prior(slices, conditioning) -> (N, H, W)`, not clipped.
        discriminator: None where lambda_gan is 0.
        average: exponential moving average of the prior's weights.
        iteration: batches done. (Lightning's `global_step` counts the steps of every optimiser.)

    Args:
        prior: network with `repair` and trainable parameters.
        iterations: batches of the whole run, over which the rates decay.
        rate: peak learning rate of the prior.
        discriminator_rate: peak learning rate of the discriminator.
        warmup: batches over which the rates rise linearly.
        final_rate: share of the peak that is left at the end of the cosine decay.
        weight_decay: of AdamW.
        lambda_l2: weight of the mean squared error.
        lambda_l1: weight of the mean absolute error.
        lambda_ssim: weight of one minus the SSIM.
        lambda_gan: weight of the adversarial term; 0 builds no discriminator.
        gan_start: batches after which the adversarial term and the discriminator's training begin.
        discriminator: network that judges (degraded, candidate); None builds a PatchDiscriminator.
        average_decay: of the moving average.
        gradient_norm: gradients of either network are scaled down to at most this norm.
        log_every: batches between two log entries, whatever the Trainer's `log_every_n_steps`; the
            step of an entry counts batches from 0.

    Raises:
        ValueError: a negative weight, no weight at all, or counts that make no sense.

    Source: DiffNR, SliceFixer objective (L2, SSIM and GAN terms; perceptual terms belong to the
        large SliceFixer).
    """

    def __init__(
        self,
        prior: nn.Module,
        iterations: int = 20_000,
        rate: float = 3e-4,
        discriminator_rate: float = 1e-4,
        warmup: int = 200,
        final_rate: float = 0.01,
        weight_decay: float = 1e-2,
        lambda_l2: float = 1.0,
        lambda_l1: float = 0.0,
        lambda_ssim: float = 0.5,
        lambda_gan: float = 0.0,
        gan_start: int = 0,
        discriminator: nn.Module | None = None,
        average_decay: float = 0.999,
        gradient_norm: float = 1.0,
        log_every: int = 50,
    ) -> None:
        super().__init__()
        weights = (lambda_l2, lambda_l1, lambda_ssim, lambda_gan)
        if min(weights) < 0 or sum(weights) == 0:
            raise ValueError(
                f"lambda_l2, lambda_l1, lambda_ssim, lambda_gan are {weights}; expected none "
                "negative and one positive."
            )
        if iterations < 1 or warmup < 0 or gan_start < 0 or rate <= 0:
            raise ValueError(
                f"iterations={iterations}, warmup={warmup}, gan_start={gan_start}, rate={rate}; "
                "expected iterations >= 1, rate > 0 and the others >= 0."
            )
        self.automatic_optimization = False
        self.prior = prior
        self.average = WeightAverage(prior, average_decay)
        self.discriminator = None
        if lambda_gan > 0:
            self.discriminator = PatchDiscriminator() if discriminator is None else discriminator
        self.iterations = iterations
        self.rate = rate
        self.discriminator_rate = discriminator_rate
        self.warmup = warmup
        self.final_rate = final_rate
        self.weight_decay = weight_decay
        self.weights = {"l2": lambda_l2, "l1": lambda_l1, "dssim": lambda_ssim, "gan": lambda_gan}
        self.gan_start = gan_start
        self.gradient_norm = gradient_norm
        self.log_every = log_every
        self.iteration = 0

    @property
    def optimizer_steps_per_batch(self) -> int:
        """How far one batch moves Lightning's `global_step`: the number of optimisers."""
        return 1 if self.discriminator is None else 2

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """AdamW for the prior and, if there is one, for the discriminator.

        Raises:
            ValueError: float16 with a discriminator that starts later.
        """
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if scaled and self.discriminator is not None and self.gan_start:
            raise ValueError(
                f"gan_start is {self.gan_start} with float16; the scaler of gradients cannot idle "
                "with the discriminator: expected precision bf16-mixed or 32-true, or gan_start 0."
            )
        # A fused step would undo the scaling of float16 gradients after they were clipped.
        fused = not scaled
        trainable = [p for p in self.prior.parameters() if p.requires_grad]
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                trainable,
                lr=self.rate,
                weight_decay=self.weight_decay,
                betas=(0.9, 0.99),
                fused=fused,
            )
        ]
        if self.discriminator is not None:
            optimizers.append(
                torch.optim.AdamW(
                    self.discriminator.parameters(),
                    lr=self.discriminator_rate,
                    weight_decay=self.weight_decay,
                    betas=(0.5, 0.99),
                    fused=fused,
                )
            )
        return optimizers

    def rate_factor(self, iteration: int) -> float:
        """Share of the peak learning rates at a batch: linear warm-up, then cosine decay."""
        if iteration < self.warmup:
            return (iteration + 1) / self.warmup
        done = (iteration - self.warmup) / max(self.iterations - self.warmup, 1)
        cosine = 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        return self.final_rate + (1 - self.final_rate) * cosine

    def training_step(self, batch: SlicePair, batch_idx: int) -> None:
        """Step the prior, then the discriminator, then the average."""
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        factor = self.rate_factor(self.iteration)
        for optimizer, peak in zip(optimizers, (self.rate, self.discriminator_rate), strict=False):
            optimizer.param_groups[0]["lr"] = peak * factor
        adversarial = self.discriminator is not None and self.iteration >= self.gan_start
        degraded = batch.degraded[:, batch.degraded.shape[1] // 2]
        clean = batch.clean[:, 0]

        repaired = self.prior(batch.degraded, conditioning_of(batch)).float()
        terms = self.reconstruction_terms(repaired, clean)
        if adversarial:
            # The prior's step must leave no gradient in the discriminator.
            self.discriminator.requires_grad_(False)
            terms["gan"] = generator_adversarial(self.discriminator(degraded, repaired))
            self.discriminator.requires_grad_(True)
        self._step(optimizers[0], sum(self.weights[name] * term for name, term in terms.items()))
        self.average.update(self.prior)

        if adversarial:
            terms["discriminator"] = discriminator_adversarial(
                self.discriminator(degraded, clean),
                self.discriminator(degraded, repaired.detach()),
            )
            self._step(optimizers[1], terms["discriminator"])
        elif self.discriminator is not None:
            # A step without gradients changes nothing and keeps `global_step` at two a batch.
            optimizers[1].step()

        self.iteration += 1
        if self.iteration % self.log_every == 0:
            values = {f"train_{name}": float(term) for name, term in terms.items()}
            # Not self.log: Lightning repeats what it was told at each batch until the next.
            for logger in self.loggers:
                logger.log_metrics(values, step=self.iteration - 1)

    def reconstruction_terms(self, repaired: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """Terms of positive weight between repaired and clean slices, both (N, H, W)."""
        terms = {
            "l2": lambda: (repaired - clean).square().mean(),
            "l1": lambda: (repaired - clean).abs().mean(),
            "dssim": lambda: 1 - ssim_2d(repaired, clean).mean(),
        }
        return {name: term() for name, term in terms.items() if self.weights[name] > 0}

    def _step(self, optimizer: Any, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradients; under float16 they are unscaled only now.

        Lightning's `clip_gradients` refuses fused optimisers under every mixed precision.
        """
        for group in optimizer.param_groups:
            nn.utils.clip_grad_norm_(group["params"], self.gradient_norm)

    def validation_step(self, batch: SlicePair, batch_idx: int) -> dict[str, Tensor]:
        """Repair a batch of held-out slices of one volume with the averaged weights.

        PSNR (peak 1) is that of the batch's pooled error, then averaged over batches; SSIM is
        averaged over slices. Both before and after the repair; the least gain is logged too.

        Returns:
            degraded, repaired and clean slices, (N, H, W) in [0, 1].
        """
        degraded = batch.degraded[:, batch.degraded.shape[1] // 2]
        clean = batch.clean[:, 0]
        with self.average.applied(self.prior):
            repaired = self.prior.repair(batch.degraded, conditioning_of(batch))
        psnr_before, psnr = _psnr(degraded, clean), _psnr(repaired, clean)
        self.log_dict(
            {
                "val_psnr_before": psnr_before,
                "val_psnr": psnr,
                "val_psnr_gain": psnr - psnr_before,
                "val_ssim_before": ssim_2d(degraded, clean).mean(),
                "val_ssim": ssim_2d(repaired, clean).mean(),
            },
            batch_size=1,
        )
        self.log("val_psnr_gain_least", psnr - psnr_before, reduce_fx="min", batch_size=1)
        return {"degraded": degraded, "repaired": repaired, "clean": clean}

    def export(self, path: str | Path, metadata: dict[str, Any] | None = None) -> None:
        """Write the averaged prior with `save_prior`; the iteration is added to the metadata."""
        with self.average.applied(self.prior):
            save_prior(path, self.prior, {"iteration": self.iteration, **(metadata or {})})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the iteration."""
        checkpoint["iteration"] = self.iteration

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the iteration."""
        self.iteration = checkpoint["iteration"]


def conditioning_of(batch: SlicePair) -> Conditioning:
    """What the prior is told about the slices of a batch."""
    return Conditioning(
        biplanar=batch.biplanar, plane=batch.plane, position=batch.position, views=batch.views
    )


def _psnr(prediction: Tensor, truth: Tensor) -> Tensor:
    # Two equal batches (empty slices) count as 100 dB rather than infinity.
    return -10 * torch.log10((prediction - truth).square().mean().clamp(min=1e-10))
