"""DINR: a representation that is fitted to the projections and to what an adapted denoiser makes of it, in turn."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from diffnr_lightning.consistency import DataStep, LeastSquares
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.solvers.diffusion.adaptation import SlabLoss, check_adaptation, drawn_slabs
from diffnr_lightning.solvers.diffusion.lora import Adapter, adapted
from diffnr_lightning.solvers.diffusion.sampler_state import SamplerState
from diffnr_lightning.solvers.diffusion.sampling import Sampling, check_sampling
from diffnr_lightning.solvers.diffusion.slice_noise import NoiseKind
from diffnr_lightning.solvers.diffusion.slice_stacks import predicted_noise, single_slices
from diffnr_lightning.solvers.initial import first_volume
from diffnr_lightning.solvers.inputs import Progress, check_amounts, check_counts


@torch.no_grad()
def dinr(
    projections: Tensor,
    grid: VolumeGrid,
    scan: ScanGeometry,
    denoiser: nn.Module,
    representation: nn.Module,
    *,
    steps: int = 50,
    eta: float = 0.85,
    omega: float = 0.02,
    rho: float = 1e-5,
    first_iterations: int = 1000,
    iterations: int = 100,
    rank: int = 12,
    updates: int = 10,
    rate: float = 3e-4,
    slices: int = 3,
    slice_noise_kind: NoiseKind = "independent",
    initial: Tensor | None = None,
    start: float = 1.0,
    batch_size: int = 16,
    nonnegative: bool = True,
    weights: Tensor | None = None,
    power: float = 0.5,
    seed: int = 0,
    state: SamplerState | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Fit a representation to the projections, held to what a prior of something else makes of it.

    The representation first learns from the projections alone. Every step adapts one LoRA of the denoiser to the
    projections, lets it take the noise away, and goes on with the fit of the representation, which stays near what the
    denoiser returned; noise is added to the volume of the representation. The denoiser is left as it was.

    Args:
        projections: (V, H, W) line integrals in unit times mm, where the prior's attenuation is 0 to 1 unit.
        grid: voxels of the volume that is wanted, all of which the representation is asked for in every iteration.
        scan: the views, in any poses.
        denoiser: predicts noise of single slices, see `priors.Denoiser`, such as one of ellipses.
        representation: a `Representation` of the grid, such as `Siren`; it is begun anew and holds the result.
        steps: of the sampler.
        eta: share of fresh noise in that of the next step.
        omega: factor on the noise that the first volume is sampled from. The paper has 0.2 for 4 views and 0.02 or less
            for more.
        rho: weight of the mean squared distance from what the denoiser returned beside the data term, in which the
            projections count as if ``A^T W A`` had the largest eigenvalue 1. The paper chooses it so that this term is
            1e-5 (simulated) or 1e-6 (measured) of the data term.
        first_iterations: of the representation's Adam on the projections alone.
        iterations: of it in every step.
        rank: of the LoRA.
        updates: of it before every step but that at the end of the schedule.
        rate: of these.
        slices: neighbouring ones, in a random place, of an update.
        slice_noise_kind: as of `dds`.
        initial: (Z, Y, X) in unit to begin with, as the representation's input too; None takes that of
            `initial_volume`.
        start: share of the schedule at which it starts, in (0, 1].
        batch_size: slices that the denoiser sees at once.
        nonnegative: set negative voxels to zero at the end.
        weights: (V, H, W) statistical weights of the rays; None weighs all alike.
        power: that weights are raised to, see `cgls`.
        seed: of all noise, slabs and first weights.
        state: as of `dds`; it holds LoRA and representation with their moments, and the volume it began with. It is
            filled after every one of `first_iterations` too, of which it holds how many are done.
        progress: called with (done, total, text) after every one of `first_iterations`, and after every step.

    Returns:
        (Z, Y, X) in unit.

    Raises:
        ImportError: peft is not installed.
        ValueError: shapes that disagree, non-finite input, options out of range, a denoiser or a representation that
            does not fit, or a state of other settings.
        TypeError: input that is not a tensor of floats.

    Source: M. T. Hossain et al., DINR, arXiv 2603.10947. It was read in summaries alone, in which the numbers of
    iterations, LoRA and eta are missing: those here are of `scd` and `ddip3d` or chosen. Deviations: slabs of slices
    are compared where the others are held at the representation's volume, so that any geometry serves; no dropout.
    """
    check_adaptation(denoiser, rate=rate, updates=updates, slices=slices)
    check_sampling(eta=eta, start=start, batch_size=batch_size)
    check_counts(steps=steps, iterations=iterations)
    check_amounts(omega=omega, rho=rho, first_iterations=first_iterations)
    # A representation that goes on is begun again, from the volume that it began with.
    first = first_volume(projections, grid, scan, (state or {}).get("first", initial))
    settings = {"eta": eta, "omega": omega, "rho": rho, "power": power, "iterations": iterations}
    settings |= {"first_iterations": first_iterations, "rank": rank, "updates": updates}
    settings |= {"rate": rate, "slices": slices, "slice_noise": slice_noise_kind}
    sizes = {name: list(value.shape) for name, value in representation.state_dict().items()}
    settings |= {"representation": sizes}
    sampling = Sampling(
        denoiser, first, state, settings, steps=steps, start=start, seed=seed, kind=slice_noise_kind
    )
    state = sampling.state
    fit = LeastSquares.weighted(projections, grid, scan, weights, power)
    representation.initialise(first, projections, scan, seed)
    data = _RepresentationStep(fit, representation.to(first.device), iterations)
    loss = SlabLoss(fit, data.scale, denoiser, iterations=0)

    def fresh(number: int) -> Tensor:
        noise = sampling.fresh(number)
        return noise if number else omega * noise

    # What cannot be adapted is refused before the long first fit.
    with adapted(denoiser, rank, seed) as adapter:
        if "fitted" in state:
            data.recall(state["fitted"])
        if state["done"] == 0:
            _fit_first(data, first, state, first_iterations, progress)
        lora = _Lora(adapter, loss, state.get("lora"), updates=updates, rate=rate)

        def find(noisy: Tensor, index: int) -> Tensor:
            step = sampling.times[index]
            if step > 0:
                loss.hold(data.volume())
                lora.tune(noisy, step, drawn_slabs(len(noisy), slices, updates, seed, index))
            return predicted_noise(noisy, step, denoiser, single_slices(len(noisy)), batch_size)

        volume = sampling.volume(
            find,
            data,
            initial=first,
            eta=eta,
            proximity=rho,
            fresh=fresh,
            kept=lambda: {"lora": lora.memory(), "fitted": data.memory(), "first": first},
            progress=progress,
        )
    return volume.clamp(min=0.0) if nonnegative else volume


def _fit_first(
    data: _RepresentationStep,
    first: Tensor,
    state: SamplerState,
    iterations: int,
    progress: Progress | None,
) -> None:
    """Fit the representation to the projections alone, from where a state is; fill that after every iteration.

    Args:
        data: whose representation learns.
        first: (Z, Y, X), what it began with.
        state: of the sampler.
        iterations: in all.
        progress: called with (done, total, text) after every iteration.
    """
    for index in range(state.get("first_done", 0), iterations):
        misfit = data.approach(first, 0.0, 1)
        state.update(first_done=index + 1, fitted=data.memory(), first=first)
        if progress is not None:
            progress(index + 1, iterations, f"first fit, misfit {misfit:.4g}")


class _Lora:
    """The one LoRA of the denoiser, which is trained on slabs before every step.

    Args:
        adapter: its weights.
        loss: of a slab.
        memory: what `memory` returned, or None to begin.
        updates: of the weights for a step.
        rate: of these.
    """

    def __init__(
        self,
        adapter: Adapter,
        loss: SlabLoss,
        memory: dict[str, Any] | None,
        *,
        updates: int,
        rate: float,
    ) -> None:
        self.adapter = adapter
        self.loss = loss
        self.options = {"updates": updates, "rate": rate}
        self.moments: dict[str, Any] | None = None
        if memory is not None:
            adapter.load(memory["weights"])
            self.moments = memory["moments"]

    def tune(self, noisy: Tensor, step: int, places: Sequence[slice]) -> None:
        """Train it on noisy slices (Z, Y, X) of a step, at one place an update."""
        self.moments = self.adapter.tune(
            lambda number: self.loss(noisy, step, places[number]),
            **self.options,
            moments=self.moments,
        )

    def memory(self) -> dict[str, Any]:
        """Return copies of the weights, and the moments."""
        return {"weights": self.adapter.values(), "moments": self.moments}


class _RepresentationStep(DataStep):
    """A data step whose volumes are those of a representation, with iterations of Adam on what a `DataStep` minimises.

    Args:
        fit: the least squares.
        representation: of its grid, ready to learn.
        iterations: of a call.
    """

    def __init__(self, fit: LeastSquares, representation: nn.Module, iterations: int) -> None:
        super().__init__(fit, iterations=iterations)
        self.representation = representation
        self.optimizer = torch.optim.Adam(representation.parameter_groups())

    def __call__(self, estimate: Tensor, proximity: float = 0.0) -> Tensor:
        self.approach(estimate, proximity, self.iterations)
        return self.volume()

    @torch.no_grad()
    def volume(self) -> Tensor:
        """Return what the representation is at the voxels, (Z, Y, X)."""
        return self.representation.query(self.fit.grid)

    @torch.enable_grad()
    def approach(self, estimate: Tensor, proximity: float, iterations: int) -> Tensor:
        """Move the representation nearer to the projections, and to an estimate (Z, Y, X).

        Returns:
            What it minimises, before the last iteration.
        """
        for _ in range(iterations):
            self.optimizer.zero_grad()
            volume = self.representation.query(self.fit.grid)
            residual = self.fit.projections - self.fit.shown(volume)
            loss = self.scale * (self.fit.weights * residual.square()).sum() / volume.numel()
            if proximity > 0:
                loss = loss + proximity * (volume - estimate).square().mean()
            loss.backward()
            self.optimizer.step()
            self.representation.constrain()
        return loss.detach()

    def memory(self) -> dict[str, Any]:
        """Return copies of weights and moments."""
        weights = self.representation.state_dict()
        return deepcopy({"weights": dict(weights), "moments": self.optimizer.state_dict()})

    def recall(self, memory: dict[str, Any]) -> None:
        """Take up what `memory` returned."""
        self.representation.load_state_dict(memory["weights"])
        self.optimizer.load_state_dict(deepcopy(memory["moments"]))
