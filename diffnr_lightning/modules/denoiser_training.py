"""DenoiserTraining: teaches a denoiser to tell noise from what clean slices and volumes look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from diffnr_lightning.batches import CleanPatches, CleanSlices
from diffnr_lightning.modules.divergence import refuse_diverged_scores, refuse_diverged_weights
from diffnr_lightning.modules.learning_rate import refuse_idle_learning, warmed_cosine
from diffnr_lightning.modules.noise_examples import noise_example
from diffnr_lightning.priors import WeightAverage, save_denoiser
from diffnr_lightning.protocol_metrics import ScoreMean

# Which of the held-out noise levels pictures show: most of the signal is covered, but not all.
SHOWN_LEVEL = 0.3


class DenoiserTraining(lightning.LightningModule):
    """Training of a denoiser on clean slices, or on patches of clean volumes.

    Noise of a random step of the schedule is added to every image, and the loss is the mean squared error of what the
    network is to return, weighted by the step. The steps of a batch are spread evenly over what they are drawn from.
    Noise and steps are drawn from (seed, iteration, process).

    Attributes:
        denoiser: network that is trained.
        average: exponential moving average of its weights, which validation and export use.
        iteration: batches done.

    Args:
        denoiser: network with trainable parameters, see `UNetDenoiser` and `PatchDenoiser`.
        iterations: batches of the whole run, over which the rate decays.
        rate: peak learning rate.
        warmup: batches over which the rate rises linearly.
        final_rate: share of the peak that is left at the end of the cosine decay.
        weight_decay: of AdamW.
        betas: of AdamW.
        min_snr: signal-to-noise ratio above which steps do not count more, in the loss of the clean image; 0 weighs all
            steps of what the network returns alike, before its preconditioning, as the DDPM's simple loss does.
        ratios: mean and deviation of the logarithm of noise over signal, by which steps are drawn; None draws all steps
            of the schedule alike, of which many hold nothing but noise.
        average_decay: of the moving average; 0 keeps the newest weights.
        gradient_norm: gradients are scaled down to at most this norm; infinity leaves them.
        levels: steps of the schedule, spread evenly, at which held-out slices are denoised; all where it has fewer.
        log_every: batches between two log entries, whose step counts batches from 0.
        seed: of noise and steps.

    Raises:
        ValueError: counts that make no sense.

    Source: J. Ho et al., "Denoising Diffusion Probabilistic Models", NeurIPS 2020, equation 14; T. Hang et al.,
        "Efficient Diffusion Training via Min-SNR Weighting Strategy", ICCV 2023, equations 8 and 9, for `min_snr`;
        T. Karras et al., "Elucidating the design space of diffusion-based generative models", NeurIPS 2022, table 1,
        for `ratios`. Deviation: the steps of a batch are spread evenly, which takes variance out of the loss.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        iterations: int = 10_000,
        rate: float = 4e-4,
        warmup: int = 300,
        final_rate: float = 0.025,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.99),
        min_snr: float = 5.0,
        ratios: tuple[float, float] | None = None,
        average_decay: float = 0.999,
        gradient_norm: float = 1.0,
        levels: int = 8,
        log_every: int = 50,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if iterations < 1 or warmup < 0 or levels < 1 or rate <= 0 or min_snr < 0:
            raise ValueError(
                f"iterations={iterations}, warmup={warmup}, levels={levels}, rate={rate}, min_snr={min_snr}; expected "
                "iterations and levels >= 1, rate > 0 and the others >= 0."
            )
        refuse_idle_learning(gradient_norm, final_rate, log_every)
        # Manual, since what follows a step has to be done before the checkpoint is written.
        self.automatic_optimization = False
        self.denoiser = denoiser
        self.average = WeightAverage(denoiser, average_decay)
        self.iterations, self.rate, self.warmup, self.final_rate = (
            iterations,
            rate,
            warmup,
            final_rate,
        )
        self.weight_decay, self.betas = weight_decay, betas
        if ratios is not None and not ratios[1] > 0:
            raise ValueError(
                f"ratios is {tuple(ratios)}; a mean and a positive deviation are expected."
            )
        self.min_snr, self.ratios, self.gradient_norm = min_snr, ratios, gradient_norm
        self.log_every, self.seed = log_every, seed
        steps = denoiser.schedule.steps
        # Of a schedule with fewer steps each is taken once: scores have the names of their steps.
        self.held_out_steps = sorted({int((n + 0.5) / levels * steps) for n in range(levels)})
        kinds = ("val_noise", "val_linear")
        by_step = [f"{kind}_{step:04d}" for step in self.held_out_steps for kind in kinds]
        self.held_out = ScoreMean([*by_step, *kinds])
        self.iteration = 0

    @property
    def optimizer_steps(self) -> int:
        """Steps of the whole run, which is what Lightning's `global_step` counts."""
        return self.iterations

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        # A fused step would undo the scaling of float16 gradients after they were clipped.
        fused = getattr(self.trainer.precision_plugin, "scaler", None) is None
        return torch.optim.AdamW(
            [p for p in self.denoiser.parameters() if p.requires_grad],
            lr=self.rate,
            weight_decay=self.weight_decay,
            betas=self.betas,
            fused=fused,
        )

    def training_step(self, batch: CleanSlices | CleanPatches, batch_idx: int) -> None:
        """Step the denoiser, then the average.

        Raises:
            ValueError: weights that hold NaN or infinite values when a log entry is due, or at the end.
        """
        optimizer = self.optimizers()
        optimizer.param_groups[0]["lr"] = self.rate * warmed_cosine(
            self.iteration, self.iterations, self.warmup, self.final_rate
        )
        entropy = [self.seed, self.iteration, self.global_rank]
        number = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        torch.manual_seed(number)  # of dropout, which a network that training starts from may have
        self.iteration += 1
        loss = self._loss(batch, torch.Generator(self.device).manual_seed(number))
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.average.update(self.denoiser)
        if self.iteration % self.log_every == 0:
            # Not self.log: Lightning repeats a value at each batch until the next one.
            for logger in self.loggers:
                logger.log_metrics({"train_loss": float(loss.detach())}, step=self.iteration - 1)
        if self.iteration % self.log_every == 0 or self.iteration == self.iterations:
            refuse_diverged_weights(self, self.iteration)

    def _loss(self, batch: CleanSlices | CleanPatches, generator: torch.Generator) -> Tensor:
        schedule = self.denoiser.schedule
        example = noise_example(batch, self.denoiser, generator)
        count = len(example.clean)
        places = torch.rand(count, generator=generator, device=self.device)
        step = self._steps((places + torch.arange(count, device=self.device)) / count)
        noisy, told = example.noisy(schedule, step)
        output = self.denoiser(noisy, step, **told).float()
        target = schedule.target(example.clean, example.noise, step)
        error = (output - target).square().flatten(1).mean(dim=1)
        return (self._weights(step) * error).mean()

    def _steps(self, places: Tensor) -> Tensor:
        """Steps (N,) at shares (N,) of what they are drawn from, in [0, 1)."""
        schedule = self.denoiser.schedule
        if self.ratios is None:
            found = (places * schedule.steps).long()
        else:
            mean, deviation = self.ratios
            ratio = (schedule.deviation / schedule.signal).log().to(places)
            found = torch.searchsorted(ratio, mean + deviation * torch.special.ndtri(places))
        return found.clamp(max=schedule.steps - 1)

    def _weights(self, step: Tensor) -> Tensor:
        """Weights (N,) of the squared errors of what the network returns at steps (N,)."""
        schedule = self.denoiser.schedule
        snr = (schedule.signal / schedule.deviation).square().to(step.device, torch.float32)[step]
        if self.min_snr == 0:
            scaled = self.denoiser.preconditioning
            return torch.ones_like(snr) if scaled is None else scaled.weights(step, schedule)
        divisor = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}
        return snr.clamp(max=self.min_snr) / divisor[schedule.prediction]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradients; under float16 they are unscaled only now."""
        for group in optimizer.param_groups:
            nn.utils.clip_grad_norm_(group["params"], self.gradient_norm)

    def validation_step(
        self, batch: CleanSlices | CleanPatches, batch_idx: int
    ) -> dict[str, Tensor]:
        """Denoise what is held out with the averaged weights at every level.

        `val_noise_STEP` is the mean squared error of the noise (of variance 1) at a step of the schedule,
        `val_linear_STEP` what the best linear filter that knows the mean power spectrum of these very images would
        leave, and `val_noise` and `val_linear` are the means over the steps.

        Returns:
            degraded, repaired and clean slices, (N, H, W) in [0, 1], at one of the steps.
        """
        schedule = self.denoiser.schedule
        scores, shown = {}, {}
        number = self._number_of(batch_idx)
        for level, step in enumerate(self.held_out_steps):
            # On the CPU, so that scores do not depend on the device.
            generator = torch.Generator().manual_seed(1000 * number + level)
            clean, noise, *_ = example = noise_example(batch, self.denoiser, generator)
            noisy, told = example.noisy(schedule, step)
            with self.average.applied(self.denoiser):
                output = self.denoiser(noisy, step, **told).float()
            found = schedule.noise_of(output, noisy, step)
            scores[f"val_noise_{step:04d}"] = (found - noise).square().mean()
            signal, deviation = float(schedule.signal[step]), float(schedule.deviation[step])
            scores[f"val_linear_{step:04d}"] = linear_error(clean, signal / deviation)
            if level == int(SHOWN_LEVEL * len(self.held_out_steps)):
                estimate = schedule.estimate(noisy, found, step)
                shown = {"degraded": noisy / signal, "repaired": estimate, "clean": clean}
        for kind in ("val_noise", "val_linear"):
            parts = [value for name, value in scores.items() if name.startswith(f"{kind}_")]
            scores[kind] = torch.stack(parts).mean()
        self.held_out.update(scores)
        return {name: self._picture(images) for name, images in shown.items()}

    def _number_of(self, batch_idx: int) -> int:
        """Number among the held-out batches of all processes of one that is the batch_idx-th of this process."""
        sampler = getattr(self.trainer.val_dataloaders, "sampler", None)
        places = getattr(sampler, "places", None)
        return batch_idx if places is None else places[batch_idx]

    def on_validation_epoch_end(self) -> None:
        """Log the means over the batches of all processes.

        Raises:
            ValueError: one of them is no finite number.
        """
        means = self.held_out.compute()
        self.log_dict(means, batch_size=1, sync_dist=True)
        self.held_out.reset()
        refuse_diverged_scores(means, self.iteration)

    def _picture(self, images: Tensor) -> Tensor:
        """Middle slices (N, H, W) of stacks and patches, as attenuation in [0, 1]."""
        low, high = self.denoiser.scale
        middle = images[:, images.shape[1] // 2]
        middle = middle[:, middle.shape[1] // 2] if middle.ndim == 4 else middle
        return ((middle - low) / (high - low)).clamp(0, 1)

    def export(self, path: str | Path, metadata: dict[str, Any] | None = None) -> None:
        """Write the averaged denoiser with `save_denoiser`; the iteration is added to the metadata."""
        with self.average.applied(self.denoiser):
            save_denoiser(path, self.denoiser, {"iteration": self.iteration, **(metadata or {})})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the iteration."""
        checkpoint["iteration"] = self.iteration

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the iteration."""
        self.iteration = checkpoint["iteration"]


def linear_error(clean: Tensor, contrast: float) -> Tensor:
    """Return the mean squared error that the best linear filter leaves of the noise in images.

    It is Wiener's, for the mean image and the mean power spectrum of the images themselves.

    Args:
        clean: (N, C, ...) on the scale of the denoiser.
        contrast: factor on the images over the deviation of the noise that is added.
    """
    axes = tuple(range(2, clean.ndim))
    mean = clean.mean(dim=(0, *axes), keepdim=True)
    power = torch.fft.fftn(clean - mean, dim=axes, norm="ortho").abs().square().mean(dim=(0, 1))
    signal = contrast**2 * power
    return (signal / (signal + 1)).mean()
