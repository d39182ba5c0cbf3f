"""SliceFixerFinetuning: teaches a prior to turn degraded slices into clean ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from torch import Tensor, nn

from diffnr_lightning.batches import SlicePair, VolumePair
from diffnr_lightning.losses import (
    discriminator_adversarial,
    discriminator_half,
    generator_adversarial,
)
from diffnr_lightning.modules.divergence import refuse_diverged_weights
from diffnr_lightning.modules.gradient_scale import gradients_in_scale, refuse_idle_steps, step_idly
from diffnr_lightning.modules.held_out_scores import (
    HELD_OUT_SCORES,
    MOST_SLICES,
    centre_of,
    conditioning_of,
    score_held_out,
)
from diffnr_lightning.modules.learning_rate import refuse_idle_learning, warmed_cosine
from diffnr_lightning.modules.repair_objective import RepairObjective
from diffnr_lightning.priors import (
    PatchDiscriminator,
    WeightAverage,
    average_gradients,
    gather_frozen,
    is_split,
    release_frozen,
    save_prior,
    split_frozen,
)
from diffnr_lightning.protocol_metrics import ScoreMean


class SliceFixerFinetuning(lightning.LightningModule):
    """Adversarial finetuning of a prior on pairs of slices.

    The loss of the prior is

        L = lambda_l2 L2 + lambda_relative R + lambda_l1 L1 + lambda_ssim (1 - SSIM)
            + lambda_lpips LPIPS + lambda_clip CLIP + lambda_gan L_GAN

    between its repair of the degraded slice and the clean one. Both optimisers step once a batch, the prior's first;
    an average of the prior's weights follows its steps and is what validation and export use. Checkpoints hold what is
    trained: frozen backbones are left out.

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
        betas: of the prior's AdamW.
        discriminator_betas: of the discriminator's AdamW.
        lambda_l2: weight of the mean squared error of slices in [0, 1]; 4 is pix2pix-turbo's 1 (`RepairObjective`).
        lambda_relative: weight of the squared error over that of the degraded slice, see `RepairObjective.terms`.
        lambda_l1: weight of the mean absolute error.
        lambda_ssim: weight of one minus the SSIM.
        lambda_lpips: weight of the perceptual distance; needs `lpips`.
        lambda_clip: weight of the distance from the caption in CLIP's space; needs `similarity`.
        lambda_gan: weight of the adversarial term; 0 builds no discriminator.
        lpips: network that gives the perceptual distance, see `losses.Lpips`.
        similarity: network that gives the distance from a caption, see `losses.ClipSimilarity`.
        gan_start: batches after which the adversarial term and the discriminator's training begin.
        discriminator: builds the network that judges (degraded, candidate), after the seed that the prior is drawn
            from; a network is taken as it is. None builds a PatchDiscriminator.
        steps: `joint` steps the prior once a batch, on all terms; `original` steps it on the terms without the
            adversarial one, then, after a fresh forward pass, on that one, and the discriminator on clean and on
            repaired slices apart.
        accumulate: batches whose gradients make one step.
        average_decay: of the moving average; 0 keeps the newest weights.
        average_last: share of the run, at its end, whose weights are averaged plainly instead.
        gradient_norm: gradients of either network are scaled down to at most this norm; infinity leaves them.
        log_every: batches between two log entries, whose step counts batches from 0; `log_every_n_steps` is ignored.

    Raises:
        ValueError: a negative weight, no weight at all, a perceptual weight without its network, steps that are not
            known, or counts that make no sense.

    Source: DiffNR, SliceFixer objective (L2, LPIPS, CLIP, GAN and SSIM terms; weights 1, 1, 4, 0.4 and 0.5); `original`
        is the order of steps of pix2pix-turbo, which SliceFixer follows. Deviations: `joint`, the default, saves a
        forward pass of two, and does not scale the discriminator's loss by lambda_gan as `original` does; the average
        of weights is ours, an average_decay of 0 does without.
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
        betas: tuple[float, float] = (0.9, 0.99),
        discriminator_betas: tuple[float, float] = (0.5, 0.99),
        lambda_l2: float = 1.0,
        lambda_relative: float = 0.0,
        lambda_l1: float = 0.0,
        lambda_ssim: float = 0.5,
        lambda_lpips: float = 0.0,
        lambda_clip: float = 0.0,
        lambda_gan: float = 0.0,
        lpips: nn.Module | None = None,
        similarity: nn.Module | None = None,
        gan_start: int = 0,
        discriminator: Callable[[], nn.Module] | None = None,
        steps: Literal["joint", "original"] = "joint",
        accumulate: int = 1,
        average_decay: float = 0.999,
        average_last: float = 0.0,
        gradient_norm: float = 1.0,
        log_every: int = 50,
    ) -> None:
        super().__init__()
        self.held_out = ScoreMean(HELD_OUT_SCORES, least=("val_psnr_gain",))
        self.objective = RepairObjective(
            {
                "l2": lambda_l2,
                "relative": lambda_relative,
                "l1": lambda_l1,
                "dssim": lambda_ssim,
                "lpips": lambda_lpips,
                "clip": lambda_clip,
                "gan": lambda_gan,
            },
            lpips,
            similarity,
        )
        if iterations < 1 or warmup < 0 or gan_start < 0 or rate <= 0:
            raise ValueError(
                f"iterations={iterations}, warmup={warmup}, gan_start={gan_start}, rate={rate}; "
                "expected iterations >= 1, rate > 0 and the others >= 0."
            )
        refuse_idle_learning(gradient_norm, final_rate, log_every)
        if accumulate < 1 or iterations % accumulate:
            raise ValueError(
                f"accumulate is {accumulate} and iterations {iterations}; expected a divisor of the number of batches."
            )
        if steps not in ("joint", "original"):
            raise ValueError(f"steps is {steps!r}; 'joint' or 'original' is expected.")
        if steps == "original" and accumulate > 1:
            raise ValueError(
                f"accumulate is {accumulate} with steps 'original', which do not add up over batches; joint ones do."
            )
        if gan_start and not any(w for term, w in self.objective.weights.items() if term != "gan"):
            raise ValueError(f"gan_start is {gan_start}, lambda_gan the only weight; expected 0.")
        if not 0 <= average_last <= 1:
            raise ValueError(f"average_last is {average_last}; a share in [0, 1] is expected.")
        plain_after = round((1 - average_last) * iterations / accumulate)
        self.automatic_optimization = False
        # Frozen backbones are not in the checkpoints; `on_load_checkpoint` asks for all the rest.
        self.strict_loading = False
        self.prior = prior
        self.average = WeightAverage(prior, average_decay, plain_after)
        self.discriminator = None
        if lambda_gan > 0:
            judge = PatchDiscriminator if discriminator is None else discriminator
            self.discriminator = judge if isinstance(judge, nn.Module) else judge()
        self.iterations, self.warmup, self.final_rate = iterations, warmup, final_rate
        self.rate, self.discriminator_rate = rate, discriminator_rate
        self.betas, self.discriminator_betas = betas, discriminator_betas
        self.weight_decay, self.gradient_norm = weight_decay, gradient_norm
        self.gan_start, self.log_every = gan_start, log_every
        self.steps, self.accumulate = steps, accumulate
        self.iteration = 0

    @property
    def optimizer_steps(self) -> int:
        """Steps of all optimisers in the whole run, which is what Lightning's `global_step` counts."""
        each = 1 if self.discriminator is None else 4 if self.steps == "original" else 2
        return each * self.iterations // self.accumulate

    def configure_model(self) -> None:
        """Split the frozen backbone over the processes where the strategy has laid a mesh for it.

        Raises:
            ValueError: the prior has no frozen backbone.
        """
        if self.device_mesh is not None:
            split_frozen(self.prior, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """AdamW for the prior and, if there is one, for the discriminator.

        Raises:
            ValueError: float16 with settings by which one of them waits, see `refuse_idle_steps`.
        """
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if scaled and self.discriminator is not None:
            refuse_idle_steps(self.gan_start, self.steps, self.objective.weights)
        # A fused step would undo the scaling of float16 gradients after they were clipped.
        adamw = partial(torch.optim.AdamW, weight_decay=self.weight_decay, fused=not scaled)
        optimizers = [adamw(_trainable(self.prior), self.rate, self.betas)]
        if self.discriminator is not None:
            judging = _trainable(self.discriminator)
            optimizers.append(adamw(judging, self.discriminator_rate, self.discriminator_betas))
        return optimizers

    def rate_factor(self, iteration: int) -> float:
        """Share of the peak learning rates at a batch: linear warm-up, then cosine decay."""
        return warmed_cosine(iteration, self.iterations, self.warmup, self.final_rate)

    def training_step(self, batch: SlicePair, batch_idx: int) -> None:
        """Step the prior, then the discriminator, then the average.

        Raises:
            ValueError: weights that hold NaN or infinite values when a log entry is due, or at the end.
        """
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        factor = self.rate_factor(self.iteration)
        for optimizer, peak in zip(optimizers, (self.rate, self.discriminator_rate), strict=False):
            optimizer.param_groups[0]["lr"] = peak * factor
        # What augmentations and latents draw follows from the batch, so that a resumed run draws the same.
        torch.manual_seed(self.iteration * self.trainer.world_size + self.global_rank)
        self.iteration += 1
        if self.discriminator is not None and self.iteration > self.gan_start:
            step = self._joint_step if self.steps == "joint" else self._original_step
            terms = step(batch, *optimizers)
        else:
            terms = self._plain_step(batch, *optimizers)
        if self._steps_now:
            self.average.update(self.prior)
        if self.iteration % self.log_every == 0:
            values = {f"train_{name}": float(term.detach()) for name, term in terms.items()}
            # Not self.log: Lightning repeats a value at each batch until the next one.
            for logger in self.loggers:
                logger.log_metrics(values, step=self.iteration - 1)
        if self.iteration % self.log_every == 0 or self.iteration == self.iterations:
            refuse_diverged_weights(self, self.iteration)

    def _plain_step(self, batch: SlicePair, prior: Any, judge: Any = None) -> dict[str, Tensor]:
        """Step the prior without an adversarial term."""
        terms = self.objective.terms(self._repaired(batch), batch.clean[:, 0], centre_of(batch))
        self._step(prior, self.objective.total(terms))
        if judge is not None and self._steps_now:
            idle = (prior, judge, judge) if self.steps == "original" else (judge,)
            for optimizer in idle:
                step_idly(optimizer)
        return terms

    def _joint_step(self, batch: SlicePair, prior: Any, judge: Any) -> dict[str, Tensor]:
        """Step the prior once on all terms, then the discriminator once."""
        repaired = self._repaired(batch)
        terms = self.objective.terms(repaired, batch.clean[:, 0], centre_of(batch))
        terms["gan"] = self._adversarial_term(batch, repaired)
        with gradients_in_scale(self.trainer.precision_plugin, self.discriminator):
            self._step(prior, self.objective.total(terms))
        degraded, kind = centre_of(batch), self.discriminator.adversarial_kind
        terms["discriminator"] = discriminator_adversarial(
            self.discriminator(degraded, batch.clean[:, 0]),
            self.discriminator(degraded, repaired.detach()),
            kind,
        )
        self._step(judge, terms["discriminator"])
        return terms

    def _original_step(self, batch: SlicePair, prior: Any, judge: Any) -> dict[str, Tensor]:
        """Step prior, prior, discriminator, discriminator, as pix2pix-turbo does."""
        repaired = self._repaired(batch)
        terms = self.objective.terms(repaired, batch.clean[:, 0], centre_of(batch))
        if terms:
            self._step(prior, self.objective.total(terms))
        else:
            step_idly(prior)
        repaired = self._repaired(batch)
        terms["gan"] = self._adversarial_term(batch, repaired)
        self._step(prior, self.objective.total({"gan": terms["gan"]}))
        degraded, kind = centre_of(batch), self.discriminator.adversarial_kind
        real = self.discriminator(degraded, batch.clean[:, 0])
        weight = self.objective.weights["gan"]
        of_real = discriminator_half(real, kind, real=True)
        self._step(judge, weight * of_real)
        fake = self.discriminator(degraded, repaired.detach())
        of_fake = discriminator_half(fake, kind, real=False)
        self._step(judge, weight * of_fake)
        terms["discriminator"] = of_real + of_fake
        return terms

    def _repaired(self, batch: SlicePair) -> Tensor:
        return self.prior(batch.degraded, conditioning_of(batch)).float()

    def _adversarial_term(self, batch: SlicePair, repaired: Tensor) -> Tensor:
        """The prior's adversarial term; its gradient stops short of the discriminator's weights."""
        judging = _trainable(self.discriminator)
        for parameter in judging:
            parameter.requires_grad_(False)
        scores = self.discriminator(centre_of(batch), repaired)
        for parameter in judging:
            parameter.requires_grad_(True)
        return generator_adversarial(scores, self.discriminator.adversarial_kind)

    @property
    def _steps_now(self) -> bool:
        return self.iteration % self.accumulate == 0

    def _step(self, optimizer: Any, loss: Tensor) -> None:
        """Add the gradient of a batch; step where it is the last of those that make one step."""
        if (self.iteration - 1) % self.accumulate == 0:
            optimizer.zero_grad()
        self.manual_backward(loss / self.accumulate)
        if self._steps_now:
            if is_split(self.prior):
                average_gradients(optimizer.param_groups[0]["params"])
            optimizer.step()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradients; under float16 they are unscaled only now.

        Lightning's `clip_gradients` refuses fused optimisers under every mixed precision.
        """
        for group in optimizer.param_groups:
            nn.utils.clip_grad_norm_(group["params"], self.gradient_norm)

    def on_validation_model_zero_grad(self) -> None:
        """Keep the gradients of batches that have not made a step yet, of which Lightning does not know."""
        if self._steps_now:
            super().on_validation_model_zero_grad()

    def on_validation_start(self) -> None:
        """Gather a prior that is split: volumes of several sizes take several numbers of calls."""
        gather_frozen(self.prior)

    def on_validation_end(self) -> None:
        """Split it again."""
        release_frozen(self.prior)

    def validation_step(self, batch: SlicePair | VolumePair, batch_idx: int) -> dict[str, Tensor]:
        """Repair held-out slices, or a whole volume, with the averaged weights.

        Of slices, PSNR (peak 1) is that of the pooled error; volumes are scored under protocol `r2`. As many slices are
        repaired at once as a training batch has, which fits the memory, but not more than eight.

        Returns:
            degraded, repaired and clean slices, (N, H, W) in [0, 1].
        """
        size = getattr(self.trainer.datamodule, "batch_size", MOST_SLICES)
        with self.average.applied(self.prior):
            images, scores = score_held_out(self.prior, batch, min(size, MOST_SLICES))
        self.held_out.update(scores)
        return images

    def on_validation_epoch_end(self) -> None:
        """Log the means over what all processes have repaired."""
        self.log_dict(self.held_out.compute(), batch_size=1, sync_dist=True)
        self.held_out.reset()

    def export(self, path: str | Path, metadata: dict[str, Any] | None = None) -> None:
        """Write the averaged prior with `save_prior`; the iteration is added to the metadata."""
        with self.average.applied(self.prior):
            save_prior(path, self.prior, {"iteration": self.iteration, **(metadata or {})})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the iteration, leave frozen weights out."""
        frozen = {name for name, p in self.named_parameters() if not p.requires_grad}
        checkpoint["state_dict"] = {
            name: tensor
            for name, tensor in checkpoint["state_dict"].items()
            if name not in frozen and not name.startswith("objective.")
        }
        checkpoint["iteration"] = self.iteration

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the iteration.

        Raises:
            ValueError: the checkpoint lacks a weight that is trained here.
        """
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        # A strategy that splits weights has loaded and removed them before.
        missing = sorted(trained - set(checkpoint.get("state_dict", trained)))
        if missing:
            raise ValueError(
                f"the checkpoint has no weight {missing[0]} ({len(missing)} are missing); it is of "
                "a run with other networks: start a new run folder."
            )
        self.iteration = checkpoint["iteration"]


def _trainable(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]
