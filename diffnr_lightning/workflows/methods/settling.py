"""The last step of a reconstruction with a prior: what was measured is explained as well as its noise allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from diffnr_lightning.consistency import unexplained
from diffnr_lightning.solvers import weighted_tv
from diffnr_lightning.workflows.methods.problem import Problem

# Passes over all views and strength of the total variation, and those of a second run where the first leaves more than
# noise. On the development set at 1e5 photons it gains 0.37 dB on sts_020, more than strengths of 0.11, 0.04 and 0.02
# do, and 0.02 dB on chest_lungdx0001, where 0.04 gains 0.03 dB.
GENTLY, FIRMLY = (6, 0.11), (12, 0.07)
# The one run of samples, which begin several times as far from noise. On pt_3, chest_lungdx0001 and sts_005 at 1e5
# photons (DDS with samplers/counted) it ends 1.33, 0.74 and 0.42 dB above the two runs above, and at the level of
# noise; a strength of 0.07 ends 1.46, 0.67 and 0.26 dB above them, 0.11 leaves more than noise.
PATIENTLY = (24, 0.05)
# Mean square of normalised residuals that noise alone leaves.
LEVEL = 1.0
# Of the share by which the volume moves; each takes a projection. Six leave the mean square 0.06 below where it was 30.
_HALVINGS = 9


class Settled(NamedTuple):
    """A volume that settled, and what the projections said of it.

    Attributes:
        volume: (Z, Y, X).
        before: mean square of the normalised residuals that it left.
        after: the same afterwards.
        share: of the way to the volume that total variation alone would have made of it; 0 where it is as it was.
    """

    volume: Tensor
    before: float
    after: float
    share: float

    def findings(self) -> dict[str, float]:
        """Return everything but the volume."""
        return {"before": self.before, "after": self.after, "share": self.share}


def settled(
    volume: Tensor, problem: Problem, runs: Sequence[tuple[int, float]] = (GENTLY, FIRMLY)
) -> Settled:
    """Move a volume that a prior made as far as its projections ask for.

    Where it leaves more than noise, weighted total variation is minimised with it as the prior image, from it on, and
    it goes towards that minimum until the mean square of its normalised residuals is 1, or all the way. The total
    variation of the difference keeps what the prior made of edges, where `consistency.agree` knows lengths alone.

    Args:
        volume: (Z, Y, X) in the unit of the problem.
        problem: whose noise is known.
        runs: passes and strength of each; those after the first are for where it leaves more than noise.

    Source: see `weighted_tv`. What it is worth is measured in `experiments/development` (`results_settled.csv`): 0.0 to
    1.0 dB and 0.0003 to 0.0078 of SSIM on six development volumes at 1e5 photons.
    """

    def left(candidate: Tensor) -> float:
        return unexplained(
            candidate,
            problem.projections,
            problem.grid,
            problem.scan,
            weights=problem.weights,
            photons=problem.photons,
        )

    def moved(passes: int, strength: float) -> Tensor:
        return weighted_tv(
            problem.projections,
            problem.grid,
            problem.scan,
            weights=problem.weights,
            strength=strength,
            iterations=passes,
            initial=volume,
            prior_image=volume,
            progress=problem.progress,
        )

    before = left(volume)
    if before <= LEVEL:
        return Settled(volume, before, before, 0.0)
    nearer = moved(*runs[0])
    after = left(nearer)
    for further in runs[1:]:
        if after <= LEVEL:
            break
        firmer = moved(*further)
        # What this does not explain either is not the volume's: it would only take up noise.
        if (remaining := left(firmer)) <= LEVEL:
            nearer, after = firmer, remaining
    if after >= before:
        return Settled(volume, before, before, 0.0)
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS if after < LEVEL else 0):
        middle = 0.5 * (low + high)
        if (remaining := left(volume.lerp(nearer, middle))) <= LEVEL:
            high, after = middle, remaining
        else:
            low = middle
    return Settled(volume.lerp(nearer, high), before, after, high)
