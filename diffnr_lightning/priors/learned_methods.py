"""Whose volumes a prior has learned to repair, by which an FBP-UNet and a SliceFixer are told apart.

Both may be networks of one class; what they have seen differs. An FBP-UNet has learned from FDK's slices alone, whose
streaks optimised volumes do not have, and a SliceFixer has not seen these.
"""

from __future__ import annotations

from pathlib import Path

from diffnr_lightning.priors.checkpoints import BUNDLED, RELEASED, read_header
from diffnr_lightning.priors.prior import Prior
from diffnr_lightning.priors.slicefixers.compact import CompactSliceFixer
from diffnr_lightning.priors.slicefixers.slicefixer import SliceFixer

LEARNED_FROM = "learned_from"
"""Key in the metadata of weights: names of the methods whose volumes a training has seen."""
LEARNED_KINDS = "learned_kinds"
"""Key beside it: what of the volumes it has seen, `slices` or `projections`."""
ANALYTIC = {"analytic", "fdk", "fbp"}
"""Methods whose volumes an FBP-UNet learns from."""


def learned_methods(weights: Path) -> set[str]:
    """Return the methods whose volumes the prior of a file has learned from; none where the file does not say.

    Args:
        weights: file of a prior, as `load_prior` reads it.
    """
    return _names(weights, LEARNED_FROM)


def has_seen_slices_alone(weights: Path) -> bool:
    """Tell whether a prior is known to have learned from no projections; of files of earlier versions it is not.

    Args:
        weights: file of a prior.
    """
    return weights.parent == BUNDLED or _names(weights, LEARNED_KINDS) == {"slices"}


def has_seen_projections_alone(weights: Path) -> bool:
    """Tell whether a prior is known to have learned from no slices of volumes.

    Args:
        weights: file of a prior.
    """
    return _names(weights, LEARNED_KINDS) == {"projections"}


def refuse_fbp_unet_of_slices(weights: Path) -> None:
    """Refuse the weights of an FBP-UNet of slices where a prior of projections is wanted.

    Args:
        weights: file of a prior.

    Raises:
        ValueError: the file says that it has learned from slices of analytic volumes alone.
    """
    methods = learned_methods(weights)
    if methods and methods <= ANALYTIC and has_seen_slices_alone(weights):
        raise ValueError(
            f"{weights} holds an FBP-UNet, which has learned from slices of {_listed(methods)} alone; a prior of "
            "projections is expected: train one by curate --kind projections and finetune, or leave repairer.weights "
            "out for the SliceFixer of the package."
        )


def refuse_fbp_unet(weights: Path) -> None:
    """Refuse the weights of an FBP-UNet where a SliceFixer is wanted.

    Args:
        weights: file of a prior.

    Raises:
        ValueError: the file says that it has learned from analytic volumes alone.
    """
    methods = learned_methods(weights)
    if methods and methods <= ANALYTIC:
        raise ValueError(
            f"{weights} holds an FBP-UNet, which has learned from volumes of {_listed(methods)} alone; a SliceFixer is "
            "expected as pseudo_reference: leave repairer.weights out for that of the package, or take --config "
            "fbp_unet."
        )


def refuse_slicefixer(weights: Path, prior: Prior) -> None:
    """Refuse the weights of a SliceFixer where an FBP-UNet is wanted.

    Args:
        weights: file of a prior.
        prior: that was read from it. Where the file does not say what it has learned from, one of our networks that
            looks at projections is a SliceFixer.

    Raises:
        ValueError: it has learned from no analytic volume.
    """
    methods = learned_methods(weights)
    if methods & ANALYTIC or not (methods or _looks_at_projections(prior)):
        return
    learned = (
        f"learned from volumes of {_listed(methods)}"
        if methods
        else "learned to look at projections"
    )
    raise ValueError(
        f"{weights} holds a SliceFixer, which has {learned}; an FBP-UNet, which has learned from volumes of FDK, is "
        "expected: leave repairer.weights at fbp_unet, or use the SliceFixer by --config r2gaussian+diffnr/align."
    )


def _looks_at_projections(prior: Prior) -> bool:
    """Whether a network of ours takes projections or the residual, as no FBP-UNet does."""
    if isinstance(prior, SliceFixer):
        return True
    return isinstance(prior, CompactSliceFixer) and (
        prior.residual or prior.architecture["biplanar"]
    )


def _names(weights: Path, key: str) -> set[str]:
    """Return the names that a file holds under a key of its metadata."""
    if weights.suffix == RELEASED:
        return set()
    named = read_header(weights)["metadata"].get(key)
    return {str(name) for name in named} if isinstance(named, list) else set()


def _listed(methods: set[str]) -> str:
    return ", ".join(sorted(methods))
