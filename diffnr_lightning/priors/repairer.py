"""Repair a volume with a prior, and hold the result to its projections."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from typing_extensions import final

from diffnr_lightning.consistency import (
    Agreement,
    agree,
    align,
    unexplained,
    with_unseen_of,
)
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.photons import PhotonCounts
from diffnr_lightning.planes import PlaneName
from diffnr_lightning.priors.checkpoints import chosen_prior
from diffnr_lightning.priors.conditioning import Conditioning, biplanar_conditioning
from diffnr_lightning.priors.inference import InferencePrecision, check_precision, computing, lent
from diffnr_lightning.priors.learned_methods import has_seen_projections_alone
from diffnr_lightning.priors.prior import Prior
from diffnr_lightning.priors.volume_repair import PlanesRepaired, repair_planes
from diffnr_lightning.solvers import (
    ResidualEvidence,
    backprojected_residual,
    near_circle,
    residual_evidence,
)

logger = logging.getLogger("diffnr")

# A repair is contradicted that leaves so many times as much unexplained as the first volume did. On the development set
# at 128^3 repairs of bodies leave 0.8 to 2.7 times as much, those of specimens of a kind that the prior does not know
# 5.1 to 10 times; this is the middle, in logarithms.
_CONTRADICTED = 4.0
# A further pass follows where planes change a volume together by so many times as much, in mean squares, as they
# differ. Chosen on the development set at 128^3 from weighted TV and from its mean with Gaussians (12, 24 and 36 views,
# both kinds of noise): passes after less than 1.25 took 0.2 dB or brought 0.3, those after more brought 0.1 to 0.5 dB.
_AGREED = 1.5
# Mean square of normalised residuals below which no volume is held to its projections.
_LEAST_LEVEL = 1e-3


class RepairedVolume(NamedTuple):
    """What a repair makes of a volume.

    Attributes:
        volume: (Z, Y, X), normalised attenuation.
        agreement: how the last pass was made to agree with the projections; None where it was not.
        contradicted: whether what the prior made of it left so much unexplained that further passes were left out.
        evaluations: how often a denoiser of several steps was asked for the whole volume; 0 where there is none.
        passes: how many passes it is the result of.
    """

    volume: Tensor
    agreement: Agreement | None = None
    contradicted: bool = False
    evaluations: float = 0.0
    passes: int = 1


@final
class Repairer:
    """Repair volumes with a prior, in one pass or several.

    A pass repairs the slices of all `planes`, averages them, and holds the result to the measured projections.
    The prior works on the device of the volume that it is given, and lies there no longer than it is asked.

    Args:
        weights: file of the prior (safetensors, or the `.pkl` of the authors), or the name of one that comes with the
            package (`fbp_unet`); None takes the compact SliceFixer that does.
        overrides: arguments of `SliceFixer` that replace those in the file, such as base, encoder, organ, precision.
        planes: slices that are repaired; the results of several planes are averaged.
        consistency: how a pass is held to the measured projections. `agreement` changes the repaired volume as little
            as is needed for it to explain them as well as the volume did that was repaired (`consistency.agree`), and
            leaves out further passes where they contradict the repair; where the weights of the rays are not known,
            and so their noise, it is `consistency.align`, since agreement to an estimated noise did harm
            (`experiments/trust`). `null_space` takes of the repair only what they do not see. `none` leaves it as the
            prior, and `align_iterations`, made it.
        align_iterations: iterations of `consistency.align` before that, which pull the repaired volume towards the
            projections without asking for their noise; 0 leaves them out.
        passes: how often a volume is repaired, each time what came out of the pass before; a prior that takes the
            backprojected residual gets what is still missing.
        most_passes: up to so many passes follow where the planes agree on what they change, and none is taken of which
            the projections undo more than the prior has changed; None leaves it at `passes`, whatever they undo.
        batch_size: slices repaired at once.
        allow: packages or modules, beside this one, whose classes the file of weights may name: the module of such a
            class is imported, which runs its code.
        precision: in which the network is asked. `auto` is bfloat16 for a `CompactSliceFixer` on processors that
            have instructions for it (AMX, AVX-512 BF16), half of the time or less, and float32 else; it leaves a
            `SliceFixer` the precision of its own.

    Attributes:
        prior: the network.
        learned: file of its weights.

    Raises:
        ValueError: passes below one, a consistency or precision that there is not, or overrides without weights.

    Source: Algorithm 1 of DiffNR, line "repair each axial slice, stack". Deviation: several planes, consistency,
    alignment and passes are ours; with the defaults none of them happens.
    """

    SUCCESSORS: ClassVar[dict[str, str]] = {"tolerance": "consistency"}

    def __init__(
        self,
        weights: Path | None = None,
        overrides: dict[str, Any] | None = None,
        planes: tuple[PlaneName, ...] = ("axial",),
        consistency: Literal["none", "agreement", "null_space"] = "none",
        align_iterations: int = 0,
        passes: int = 1,
        most_passes: int | None = None,
        batch_size: int = 16,
        allow: tuple[str, ...] = (),
        precision: InferencePrecision = "auto",
    ) -> None:
        if passes < 1:
            raise ValueError(f"passes is {passes}; at least one pass of a repair is expected.")
        if most_passes is not None and (most_passes < passes or len(planes) < 2):
            raise ValueError(
                f"most_passes is {most_passes}, passes {passes} and planes {tuple(planes)}; null, or at least as many "
                "as passes and two planes that may agree are expected."
            )
        if not planes or batch_size < 1:
            raise ValueError(
                f"planes is {tuple(planes)} and batch_size {batch_size}; at least one plane and one slice in a batch "
                "are expected."
            )
        if align_iterations < 0:
            raise ValueError(f"align_iterations is {align_iterations}; 0 or more is expected.")
        if consistency not in ("none", "agreement", "null_space"):
            raise ValueError(
                f"consistency is {consistency!r}; 'none', 'agreement' or 'null_space' is expected."
            )
        check_precision(precision)
        self.planes = tuple(planes)
        self.consistency = consistency
        self.align_iterations = align_iterations
        self.passes = passes
        self.most_passes = most_passes
        self.batch_size = batch_size
        self.prior: Prior
        self.prior, self.learned = chosen_prior(weights, overrides, allow)
        self.precision: InferencePrecision = precision
        if has_seen_projections_alone(self.learned):
            logger.warning(
                "volumes are repaired by %s, which has seen projections alone; weights that have learned from slices "
                "come from curate and finetune",
                self.learned,
            )

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
        """Repair a volume in all passes.

        Args:
            volume: (Z, Y, X), normalised attenuation.
            projections: (V, H, W) measured, line integrals of it in mm.
            grid: voxels of the volume.
            scan: geometry of the projections.
            weights: (V, H, W) one over the variance of the noise of every ray, in (unit mm)^-2; None takes all rays
                alike. The residual that the prior gets is weighted by them, a prior that takes its noise gets that, and
                agreement is judged by them.
            photons: what was counted, so that agreement is not biased behind thick objects.
            features: (1, 2, F) features of two projections that were stored with the scan, see `stored_features`; a
                prior that takes features of this length gets them in the place of the projections.
        """
        given = {"weights": weights, "photons": photons, "features": features}
        *_, last = self.each_pass(volume, projections, grid, scan, **given)
        return last

    def each_pass(
        self,
        volume: Tensor,
        projections: Tensor,
        grid: VolumeGrid,
        scan: ScanGeometry,
        *,
        weights: Tensor | None = None,
        photons: PhotonCounts | None = None,
        features: Tensor | None = None,
    ) -> Iterator[RepairedVolume]:
        """Yield what each pass of `repair` makes, whose arguments these are."""
        conditioning = self._conditioning(projections, scan, features)
        measured = (projections, grid, scan)
        rays = {"weights": weights, "photons": photons}
        agreeing = self.consistency == "agreement" and weights is not None
        if self.consistency == "agreement" and weights is None:
            logger.warning(
                "the noise of the rays is not known: repairs are aligned with the projections instead of being made to "
                "explain them as well as the volume did before"
            )
        # The level must be positive: no change of a volume leaves nothing unexplained.
        level = max(unexplained(volume, *measured, **rays), _LEAST_LEVEL) if agreeing else None
        for number in range(1, (self.most_passes or self.passes) + 1):
            repaired, spread = self._repaired(volume, conditioning, *measured, weights)
            changed = _mean_square(repaired - volume)
            repaired = align(repaired, *measured, iterations=self.align_iterations)
            held, agreement = self._held(volume, repaired, *measured, **rays, level=level)
            if agreement is not None:
                logger.info("pass %d of the repair: %s", number, agreement)
            if self.most_passes and number > 1 and _mean_square(held - repaired) > changed:
                logger.info("pass %d is left out: the projections undo what it changes", number)
                return
            volume = held
            contradicted = agreement is not None and agreement.before > _CONTRADICTED * level
            yield RepairedVolume(volume, agreement, contradicted, passes=number)
            if contradicted and not self.most_passes:
                logger.info("no further pass: the projections contradict what the prior makes")
                return
            if self.most_passes and number >= self.passes and changed < _AGREED * spread:
                logger.info("no further pass: the planes differ about as much as they change")
                return

    def _repaired(
        self,
        volume: Tensor,
        conditioning: Conditioning,
        projections: Tensor,
        grid: VolumeGrid,
        scan: ScanGeometry,
        weights: Tensor | None,
    ) -> PlanesRepaired:
        """Return what the prior alone makes of a volume (Z, Y, X), with the evidence that it takes."""
        evidence = self._evidence(volume, projections, grid, scan, weights)
        device = volume.device
        with lent(self.prior, device), computing(self.prior, self.precision, device):
            return repair_planes(
                self.prior,
                volume,
                conditioning,
                planes=self.planes,
                batch_size=self.batch_size,
                residual=evidence.residual,
                noise=evidence.noise,
            )

    def _held(
        self,
        volume: Tensor,
        repaired: Tensor,
        projections: Tensor,
        grid: VolumeGrid,
        scan: ScanGeometry,
        *,
        weights: Tensor | None,
        photons: PhotonCounts | None,
        level: float | None,
    ) -> tuple[Tensor, Agreement | None]:
        """Hold a repaired volume to the measured projections as `consistency` says.

        Args:
            volume: (Z, Y, X) before the repair, normalised attenuation.
            repaired: (Z, Y, X) what the repair made of it.
            projections: (V, H, W) measured, line integrals of it in mm.
            grid: voxels of the volume.
            scan: geometry of the projections.
            weights: (V, H, W) one over the variance of the noise of every ray; None where it is not known.
            photons: what was counted.
            level: mean square of normalised residuals to agree to; None where no agreement is asked for.

        Returns:
            The volume (Z, Y, X), and how it was made to agree; None where it was not.
        """
        if self.consistency == "null_space":
            unseen = with_unseen_of(volume, repaired, grid, scan, weights)
            return unseen.clamp(min=0), None
        if level is not None:
            rays = {"weights": weights, "photons": photons}
            agreement = agree(repaired, projections, grid, scan, **rays, level=level)
            return agreement.volume, agreement
        if self.consistency == "agreement":
            return align(repaired, projections, grid, scan), None
        return repaired, None

    def _conditioning(
        self, projections: Tensor, scan: ScanGeometry, features: Tensor | None
    ) -> Conditioning:
        """Conditioning of the volume by two projections, or by the features that were stored of them."""
        directions = torch.tensor(scan.direction, dtype=torch.float32)
        conditioning = biplanar_conditioning(projections, directions, size=self.prior.biplanar_size)
        # Priors without an encoder of projections do not say how long its features are.
        if features is None or features.shape[-1] != getattr(self.prior, "feature_width", None):
            return conditioning
        logger.info("the prior gets the features of projections that are stored with the case")
        return conditioning._replace(biplanar=features.to(projections.device))

    def _evidence(
        self,
        volume: Tensor,
        projections: Tensor,
        grid: VolumeGrid,
        scan: ScanGeometry,
        weights: Tensor | None,
    ) -> ResidualEvidence:
        """Backprojected residual of the volume, and its noise, for a prior that takes them."""
        if not self.prior.residual:
            return ResidualEvidence(None, None)
        if not near_circle(scan):
            logger.warning(
                "the views are not near a circle, so that no residual can be backprojected; the prior does without"
            )
            return ResidualEvidence(None, None)
        measured = (volume.clamp(0, 1), projections, grid, scan, weights)
        if weights is None or not getattr(self.prior, "noise", False):
            return ResidualEvidence(backprojected_residual(*measured).clamp(-1, 1), None)
        residual, noise = residual_evidence(*measured)
        return ResidualEvidence(residual.clamp(-1, 1), noise.clamp(max=1))


def _mean_square(difference: Tensor) -> float:
    return float(difference.square().mean())
