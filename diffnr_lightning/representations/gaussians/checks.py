"""What 3D Gaussians have to be before anything is made of them, asked without waiting for a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from diffnr_lightning.representations.gaussians.shape import check_cut

Gaussians = tuple[Tensor, Tensor, Tensor, Tensor]

NAMES = ("positions", "scales", "rotations", "densities")

# For each device a number that kernels set to 0, and where it is copied to.
_finite: dict[torch.device, tuple[Tensor, Tensor]] = {}


def check_gaussians(gaussians: Gaussians, cut: float) -> None:
    """Refuse tensors that do not belong together, and a cut that is not known.

    Raises:
        ValueError: shapes other than (N, 3), (N, 3), (N, 4), (N,), or a cut outside (0, 4].
    """
    count = len(gaussians[0])
    shapes = [tuple(t.shape) for t in gaussians]
    if shapes != [(count, 3), (count, 3), (count, 4), (count,)]:
        raise ValueError(
            f"the Gaussians' tensors have shapes {shapes}; (N, 3), (N, 3), (N, 4) and (N,) are "
            "expected."
        )
    check_cut(cut)


def check_finite(gaussians: Gaussians) -> None:
    """Refuse Gaussians that are no numbers; waits for the device.

    Raises:
        ValueError: naming the first tensor that is not finite.
    """
    for name, tensor in zip(NAMES, gaussians, strict=True):
        # A sum is finite where all its terms are, and a single pass without a mask.
        if not bool(torch.isfinite(tensor.detach().sum())):
            raise ValueError(_message(name))


def finite_flag(device: torch.device) -> Tensor:
    """Return the int32 (1,) that a kernel sets to 0 where a Gaussian is no number."""
    if device.type != "cuda":
        return torch.ones(1, dtype=torch.int32, device=device)
    if device not in _finite:
        _finite[device] = (
            torch.ones(1, dtype=torch.int32, device=device),
            torch.ones(1, dtype=torch.int32, pin_memory=True),
        )
    return _finite[device][0]


def check_finite_later(flag: Tensor, *, wait: bool) -> None:
    """Refuse Gaussians that are no numbers, on the GPU as soon as that is known without waiting.

    An optimisation learns of it an iteration or two later. Until then a Gaussian whose place, scale or
    rotation is no number is not seen, neither in an image nor in a grid; one whose density is none makes
    what it covers none.

    Args:
        flag: that of `finite_flag`, after the kernel was launched.
        wait: whether the answer is needed now, as where a result is kept.

    Raises:
        ValueError: these or earlier ones on this device are not finite.
    """
    answer = flag
    if flag.device.type == "cuda":
        answer = _finite[flag.device][1]
        answer.copy_(flag, non_blocking=True)
        if wait:
            torch.cuda.current_stream(flag.device).synchronize()
    if not bool(answer):
        _finite.pop(flag.device, None)
        raise ValueError(_message("parameters"))


def _message(name: str) -> str:
    return (
        f"the Gaussians' {name} are not finite; lower the learning rates, or start again from a "
        "checkpoint before they overflowed."
    )
