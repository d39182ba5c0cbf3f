"""Pseudo-references by a few steps of a sampler."""

from __future__ import annotations

from diffnr_lightning.callbacks.pseudo_reference import PseudoReference
from diffnr_lightning.priors import DdsRepairer


class SampledReference(PseudoReference):
    """As `PseudoReference`, with a prior of several steps.

    Args:
        sampler: what repairs a volume.
        every: see `PseudoReference`, as all that follow.
        every_share: of a schedule.
        repairs: at most.
        start_share: of the first volume.
    """

    def __init__(
        self,
        sampler: DdsRepairer,
        every: int = 10_000,
        every_share: float | None = None,
        repairs: int | None = None,
        start_share: float = 0.0,
    ) -> None:
        super().__init__(sampler, every, every_share, repairs, start_share)
