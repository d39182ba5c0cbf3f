"""The protocols of `metrics` as torchmetrics: means over volumes whose sums go through all processes.

`metrics` holds the functional form, which needs neither torch nor torchmetrics; both give the same numbers.
Commands use `ScoreMean` and `VolumePsnr`; `VolumeProtocol` and `every_protocol` are for training loops of your own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from diffnr_lightning.metrics import PROTOCOLS, UndefinedError, peak_signal_to_noise


class ScoreMean(Metric):
    """Mean, and least, of scores over whatever they are given for, on all processes together.

    A process that saw fewer counts for less; sums are of float64, on devices without it (Apple's MPS) of float32.

    Args:
        names: of the scores.
        least: those of them whose least value is kept too, as `<name>_least`.
    """

    full_state_update = False
    higher_is_better = True

    def __init__(self, names: Sequence[str], least: Sequence[str] = ()) -> None:
        super().__init__()
        self.names, self.least = tuple(names), tuple(least)
        zero = torch.zeros((), dtype=torch.float64)
        self.add_state("count", zero.clone(), dist_reduce_fx="sum")
        for name in self.names:
            self.add_state(f"sum_{name}", zero.clone(), dist_reduce_fx="sum")
        for name in self.least:
            self.add_state(f"least_{name}", zero + torch.inf, dist_reduce_fx="min")

    def update(self, scores: Mapping[str, float | Tensor]) -> None:
        """Add one set of scores, such as those of a volume.

        Args:
            scores: number by name.
        """
        self.count += 1
        for name in self.names:
            value = torch.as_tensor(scores[name], dtype=self.count.dtype, device=self.count.device)
            setattr(self, f"sum_{name}", getattr(self, f"sum_{name}") + value)
            if name in self.least:
                kept = getattr(self, f"least_{name}")
                setattr(self, f"least_{name}", torch.minimum(kept, value))

    def _apply(self, fn: Callable[[Tensor], Tensor], *arguments: Any) -> ScoreMean:
        """Move the sums with the module."""
        try:
            fn(torch.zeros_like(self.count))
        except TypeError:
            return super()._apply(lambda tensor: fn(tensor.float()), *arguments)
        return super()._apply(fn, *arguments)

    def compute(self) -> dict[str, Tensor]:
        """Return the means, and what was least; NaN and infinity where nothing was added."""
        means = {name: getattr(self, f"sum_{name}") / self.count for name in self.names}
        return means | {f"{name}_least": getattr(self, f"least_{name}") for name in self.least}


class VolumeProtocol(ScoreMean):
    """Mean over volumes of PSNR and SSIM under one named protocol.

    Args:
        protocol: one of `metrics.PROTOCOLS`.

    Raises:
        ValueError: another name.
    """

    def __init__(self, protocol: str = "r2") -> None:
        if protocol not in PROTOCOLS:
            raise ValueError(
                f"protocol is {protocol!r}; one of {', '.join(PROTOCOLS)} is expected."
            )
        super().__init__(("psnr", "ssim"))
        self.protocol = protocol

    def update(self, prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> None:
        """Add a volume.

        Args:
            prediction: (Z, Y, X), normalised so that the intensity window is 0..1.
            truth: (Z, Y, X), likewise.
            mask: (Z, Y, X), where protocol `strict` looks.

        Raises:
            ValueError: volumes that the protocol cannot compare.
            UndefinedError: a truth on which it is not defined.
        """
        inside = None if mask is None else mask.cpu()
        super().update(
            PROTOCOLS[self.protocol](prediction.detach().cpu(), truth.detach().cpu(), inside)
        )


class VolumePsnr(ScoreMean):
    """Mean over volumes of the PSNR for the peak 1, which protocols `r2` and `naf` share."""

    def __init__(self) -> None:
        super().__init__(("psnr",))

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Add a volume.

        Args:
            prediction: (Z, Y, X), normalised so that the intensity window is 0..1.
            truth: (Z, Y, X), likewise.

        Raises:
            ValueError: shapes that differ, or values that are not finite.
        """
        super().update(
            {"psnr": peak_signal_to_noise(prediction.detach().cpu(), truth.detach().cpu())}
        )


def every_protocol() -> MetricCollection:
    """Return all protocols as one metric, whose scores are called `r2_psnr`, `strict_ssim` and so on.

    As in `metrics.evaluate_volume`, a volume counts under those protocols that are defined on its truth: not under
    `naf` where an axis has fewer than 7 voxels, nor under `strict` where it is constant inside the mask.
    """
    return MetricCollection({name: _Named(name) for name in PROTOCOLS}, compute_groups=False)


class _Named(VolumeProtocol):
    """A protocol whose scores carry its name, since a collection joins them, over the volumes that it can score."""

    def update(self, prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> None:
        with suppress(UndefinedError):
            super().update(prediction, truth, mask)

    def compute(self) -> dict[str, Tensor]:
        return {f"{self.protocol}_{name}": value for name, value in super().compute().items()}
