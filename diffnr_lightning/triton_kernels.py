"""What all Triton kernels share: when they are taken, and how a launch at the paper's size is described.

Triton compiles kernels for CUDA devices without nvcc; it comes with torch's CUDA wheels. A kernel lies
in a file ``*_triton.py`` beside its numba kernel. Only that file imports ``triton``, and it is imported
when a CUDA tensor comes (or a test that runs it in Triton's interpreter on the CPU).
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from functools import lru_cache, wraps
from subprocess import SubprocessError
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from triton.runtime.jit import JITFunction

_LOG = logging.getLogger("diffnr")

__all__ = [
    "CARDS",
    "Card",
    "PaperLaunch",
    "on_its_device",
    "takes_triton",
    "triton_modules",
]

_Result = TypeVar("_Result")


class Card(NamedTuple):
    """Peak rates of a card as its vendor states them."""

    name: str
    bytes_per_s: float
    flops_per_s: float  # float32 outside of tensor cores, a fused multiply-add as two
    source: str


CARDS = (
    Card("RTX 3090", 936e9, 35.6e12, "NVIDIA Ampere GA102 whitepaper, table 2"),
    Card("A100", 2039e9, 19.5e12, "NVIDIA A100 data sheet, 80 GB SXM"),
    Card("H100", 3350e9, 66.9e12, "NVIDIA H100 data sheet, SXM"),
)
"""Cards for which times are predicted."""


class PaperLaunch(NamedTuple):
    """One launch of a kernel at the paper's size, from which its cost is known without a GPU.

    The paper's size is 256^3 voxels, 36 views of 256^2 pixels and 50,000 Gaussians.

    Attributes:
        name: what the launch does, such as "project".
        kernel: the function under ``triton.jit``.
        signature: Triton type of each argument, such as "*fp32", "i32" or "constexpr".
        constants: values of the arguments that are "constexpr".
        warps: warps of a program.
        programs: programs of the launch.
        bytes: that move between the chip and its memory, at least.
        flops: float32 operations, with a fused multiply-add as two.
        launches: how often the work is launched: once for each view, or once for all of them.
    """

    name: str
    kernel: JITFunction
    signature: dict[str, str]
    constants: dict[str, int | float]
    warps: int
    programs: int
    bytes: int
    flops: int
    launches: int = 1


def takes_triton(where: Tensor | torch.device) -> bool:
    """Return whether the work on a tensor is done by Triton kernels: it lies on a CUDA device.

    Where triton is not installed or cannot launch kernels, one warning says so and the torch reference is taken.

    Args:
        where: the tensor, or its device; which dtypes a kernel serves is asked beside the kernel.
    """
    device = where.device if isinstance(where, Tensor) else where
    return device.type == "cuda" and _has_triton()


def on_its_device(function: Callable[..., _Result]) -> Callable[..., _Result]:
    """Let a function launch kernels on the device of its first tensor; Triton takes the current one.

    Args:
        function: its first argument is a tensor.
    """

    @wraps(function)
    def launched(tensor: Tensor, *args: Any, **options: Any) -> _Result:
        with torch.cuda.device_of(tensor):
            return function(tensor, *args, **options)

    return launched


def triton_modules() -> tuple[str, ...]:
    """Return the modules that hold Triton kernels; each has a function ``paper_launches``."""
    return (
        "diffnr_lightning.losses.ssim_triton",
        "diffnr_lightning.losses.variation_triton",
        "diffnr_lightning.projectors.rays_triton",
        "diffnr_lightning.projectors.separable_triton",
        "diffnr_lightning.projectors.voxel_driven_triton",
        "diffnr_lightning.representations.gaussians.bins_triton",
        "diffnr_lightning.representations.gaussians.ellipsoid_triton",
        "diffnr_lightning.representations.gaussians.lines_triton",
        "diffnr_lightning.representations.gaussians.pinhole_triton",
        "diffnr_lightning.representations.gaussians.shape_triton",
        "diffnr_lightning.representations.gaussians.splat_triton",
        "diffnr_lightning.representations.gaussians.trace_triton",
        "diffnr_lightning.representations.gaussians.voxel_triton",
        "diffnr_lightning.representations.fields.hash_triton",
        "diffnr_lightning.representations.fields.network_triton",
        "diffnr_lightning.solvers.primal_dual_triton",
        "diffnr_lightning.solvers.total_variation_triton",
    )


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    hindrance = _hindrance()
    if hindrance is not None:
        found, remedy = hindrance
        _LOG.warning("%s, so CUDA tensors take the slow torch reference; %s.", found, remedy)
    return hindrance is None


def _hindrance() -> tuple[str, str] | None:
    """Return what keeps triton from launching kernels, and what to do about it; None where nothing does."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed", "`pip install triton` (Linux)"
    try:
        triton = importlib.import_module("triton")
    except (ImportError, OSError) as error:
        return (
            f"triton cannot be imported ({error})",
            "reinstall triton of the version that this torch asks for",
        )
    try:
        # Its driver builds what launches kernels with the machine's C compiler, or finds it in triton's cache.
        triton.runtime.driver.active  # noqa: B018
    except (AssertionError, ImportError, OSError, RuntimeError, SubprocessError) as error:
        return (
            f"triton cannot launch kernels ({error})",
            "it needs a C compiler (gcc, or the one named by CC) and the headers of this Python (python3-dev)",
        )
    return None
