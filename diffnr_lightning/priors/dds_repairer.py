"""Repair a volume by the last steps of a sampler, in the place of one step of a SliceFixer."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from typing_extensions import final

from diffnr_lightning.consistency import noise_of_mean_weight
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.photons import PhotonCounts
from diffnr_lightning.priors.denoisers.denoiser import watch
from diffnr_lightning.priors.denoisers.denoiser_folders import denoiser_folder, load_denoiser
from diffnr_lightning.priors.inference import InferencePrecision, lent, quicken
from diffnr_lightning.priors.repairer import RepairedVolume
from diffnr_lightning.solvers.diffusion import dds
from diffnr_lightning.solvers.diffusion.sampling import check_sampling, sampled_times
from diffnr_lightning.solvers.inputs import check_amounts, check_counts


@final
class DdsRepairer:
    """Add noise to a volume and take it away again by a few steps of DDS, each of which is held to the projections.

    Args:
        denoiser: folder of a denoiser of slices, or the name of one that comes with the package.
        steps: of the sampler, each an evaluation of the denoiser on all slices.
        start: share of the schedule at which it starts: how much noise is added, and so how much of the volume may
            change. With 0.05, five steps of the linear schedule of 1000 begin at step 40, at a noise of 0.07 in
            normalised attenuation.
        eta: share of fresh noise in that of the next step.
        cg_iterations: of conjugate gradients in every step.
        held: whether volumes are held to the denoiser's estimate by the noise of the rays, where their weights are
            known; as in the paper they are not, and the projections' noise is fitted.
        coupling: of the total variation between slices, see `dds`.
        threshold: differences between slices that it takes away, in normalised attenuation.
        batch_size: stacks of slices that the denoiser sees at once.
        seed: of the noise, the same for every repair, every case and every seed of a reconstruction.
        precision: in which the denoiser is asked: `auto` is bfloat16 on processors that have instructions for it
            (AMX, AVX-512 BF16), float32 else.

    Attributes:
        denoiser: the network.
        learned: folder of its weights.

    Raises:
        FileNotFoundError: no such denoiser.
        ValueError: one of patches, or options out of range.

    Source: Algorithm 1 of DiffNR, line "repair each axial slice, stack", with H. Chung, S. Lee, J. C. Ye, "Decomposed
    diffusion sampler for accelerating large-scale inverse problems", ICLR 2024, in the place of SliceFixer's one step;
    a start between the two ends of the schedule is that of C. Meng et al., "SDEdit", ICLR 2022.
    """

    def __init__(
        self,
        denoiser: str | Path = "slices",
        steps: int = 5,
        start: float = 0.05,
        eta: float = 0.85,
        cg_iterations: int = 5,
        held: bool = True,
        coupling: float = 0.025,
        threshold: float = 0.004,
        batch_size: int = 16,
        seed: int = 0,
        precision: InferencePrecision = "auto",
    ) -> None:
        # What the sampler would refuse is refused now, not at the first repair.
        check_sampling(eta=eta, start=start, spread=1.0, batch_size=batch_size)
        check_counts(cg_iterations=cg_iterations)
        check_amounts(coupling=coupling, threshold=threshold)
        self.learned = denoiser_folder(denoiser)
        self.denoiser = load_denoiser(denoiser)
        if self.denoiser.dimensions != 2:
            raise ValueError(f"denoiser {denoiser} is one of patches; one of slices is expected.")
        sampled_times(self.denoiser, steps, start)
        quicken(self.denoiser, precision)
        watch(self.denoiser, self._note)
        self._shown = 0
        self.precision: InferencePrecision = precision
        self.batch_size, self.held = batch_size, held
        self.options = {"steps": steps, "start": start, "eta": eta, "cg_iterations": cg_iterations}
        self.options |= {"coupling": coupling, "threshold": threshold}
        self.options |= {"batch_size": batch_size, "seed": seed}

    def repair(
        self,
        volume: Tensor,
        projections: Tensor,
        grid: VolumeGrid,
        scan: ScanGeometry,
        *,
        weights: Tensor | None = None,
        photons: PhotonCounts | None = None,
        features: Tensor | None = None,
    ) -> RepairedVolume:
        """Repair a volume (Z, Y, X) of normalised attenuation; the arguments are those of `Repairer.repair`.

        Of the rays it uses the weights, one over the variance of their noise; of what else is known nothing.
        """
        given = {"initial": volume.clamp(0, 1), "weights": weights}
        if self.held and weights is not None:
            given["noise"] = noise_of_mean_weight(weights)
        self._shown = 0
        with lent(self.denoiser, volume.device):
            repaired = dds(projections, grid, scan, self.denoiser, **given, **self.options)
        return RepairedVolume(repaired, evaluations=self._shown / volume.numel())

    def _note(self, pixels: int) -> None:
        self._shown += pixels
