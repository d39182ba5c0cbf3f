"""What a finetuned prior is asked for: the terms of its loss and their weights."""

from __future__ import annotations

from torch import Tensor, nn

from diffnr_lightning.losses import ssim_2d

# Mean squared error of slices in [0, 1] (50 dB) below which it no longer matters how good a slice was before.
_GOOD_ENOUGH = 1e-5


class RepairObjective(nn.Module):
    """Weighted terms between repaired and clean slices, beside an adversarial one.

    All terms are taken on slices in [0, 1]. pix2pix-turbo takes its squared error on [-1, 1], where
    it is four times as large: a weight of 4 here is a weight of 1 there.

    Attributes:
        weights: of each term, by name: l2, relative, l1, dssim, lpips, clip, gan.
        lpips: frozen; None where its weight is 0.
        similarity: frozen; None where its weight is 0.

    Args:
        weights: of each term.
        lpips: network that gives the perceptual distance, see `losses.Lpips`.
        similarity: network that gives the distance from a caption, see `losses.ClipSimilarity`.

    Raises:
        ValueError: a negative weight, no weight at all, or a perceptual weight without its network.
    """

    def __init__(
        self,
        weights: dict[str, float],
        lpips: nn.Module | None = None,
        similarity: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if min(weights.values()) < 0 or sum(weights.values()) == 0:
            raise ValueError(
                f"the weights of the losses are {weights}; expected none negative and one positive."
            )
        for term, network, name in (("lpips", lpips, "lpips"), ("clip", similarity, "similarity")):
            if weights[term] and network is None:
                raise ValueError(
                    f"a loss of weight {weights[term]} needs the network {name!r}, which is not "
                    f"given; name its class under module.init_args.{name}, or set the weight to 0."
                )
        self.weights = dict(weights)
        self.lpips = lpips if weights["lpips"] else None
        self.similarity = similarity if weights["clip"] else None
        for frozen in (self.lpips, self.similarity):
            if frozen is not None:
                frozen.requires_grad_(False).eval()

    def terms(self, repaired: Tensor, clean: Tensor, degraded: Tensor) -> dict[str, Tensor]:
        """Return the terms of positive weight between slices, all (N, H, W) in [0, 1].

        The relative one is the squared error over that of the degraded slice, averaged over slices:
        a repair that makes a good slice worse costs as much as one that fails on a bad one.
        """
        computed = {
            "l2": lambda: (repaired - clean).square().mean(),
            "relative": lambda: _relative(repaired, clean, degraded),
            "l1": lambda: (repaired - clean).abs().mean(),
            "dssim": lambda: 1 - ssim_2d(repaired, clean).mean(),
            "lpips": lambda: self.lpips(repaired, clean).mean(),
            "clip": lambda: self.similarity(repaired).mean(),
        }
        return {name: term() for name, term in computed.items() if self.weights[name] > 0}

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """Return the weighted sum of terms."""
        return sum(self.weights[name] * term for name, term in terms.items())


def _relative(repaired: Tensor, clean: Tensor, degraded: Tensor) -> Tensor:
    after, before = ((each - clean).square().mean(dim=(1, 2)) for each in (repaired, degraded))
    return (after / (before + _GOOD_ENOUGH)).mean()
