"""The ramp filter of analytic reconstruction.

Source: A. C. Kak, M. Slaney, "Principles of Computerized Tomographic Imaging", 1988, section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Filter = Literal["ram_lak", "shepp_logan", "cosine", "hamming", "hann"]

_FILTERED_AT_ONCE = 1 << 23  # padded detector samples in the Fourier domain: 64 MB


def ramp_filter(length: int, pitch: float, filter: Filter, cutoff: float) -> Tensor:  # noqa: A002
    """Return the windowed ramp (length // 2 + 1,) for `rfft` of rows zero-padded to ``length``.

    The ramp is the transform of its band-limited kernel, not ``|f|`` itself, whose zero at f = 0
    would shift the level of the volume.

    Args:
        length: padded number of samples, even.
        pitch: spacing of the samples in mm.
        filter: window.
        cutoff: where the window ends, as a fraction of the Nyquist frequency.

    Raises:
        ValueError: an unknown filter or a cutoff outside (0, 1].
    """
    if not 0.0 < cutoff <= 1.0:
        raise ValueError(f"cutoff is {cutoff}; a fraction of Nyquist in (0, 1] is expected.")
    n = torch.fft.fftfreq(length, d=1.0 / length, dtype=torch.float64)  # 0, 1, ..., -1
    kernel = torch.zeros(length, dtype=torch.float64)
    odd = n.abs() % 2 == 1
    kernel[odd] = -1.0 / (torch.pi * n[odd] * pitch) ** 2
    kernel[0] = 1.0 / (4.0 * pitch**2)
    ramp = torch.fft.rfft(kernel).real * pitch
    f = torch.linspace(0.0, 1.0, length // 2 + 1, dtype=torch.float64) / cutoff
    if filter == "ram_lak":
        window = torch.ones_like(f)
    elif filter == "shepp_logan":
        window = torch.sinc(0.5 * f)
    elif filter == "cosine":
        window = torch.cos(0.5 * torch.pi * f)
    elif filter == "hamming":
        window = 0.54 + 0.46 * torch.cos(torch.pi * f)
    elif filter == "hann":
        window = 0.5 + 0.5 * torch.cos(torch.pi * f)
    else:
        raise ValueError(
            f"filter is {filter!r}; ram_lak, shepp_logan, cosine, hamming or hann is expected."
        )
    return ramp * torch.where(f <= 1.0, window, 0.0)


def filter_rows(
    projections: Tensor,
    weights: np.ndarray,
    cosine: Callable[[slice], Tensor | float],
    pitch: float,
    filter: Filter,  # noqa: A002
    cutoff: float,
) -> Tensor:
    """Weight projections (V, H, W) and filter them along u.

    Args:
        projections: (V, H, W).
        weights: (V, W) of every ray in the line that it measures, times the step of its view.
        cosine: returns for a slice of views what else their pixels are multiplied by, (v, H, W) or
            (H, W) or a number.
        pitch: of the columns in mm, where the filter is meant.
        filter: window of the ramp.
        cutoff: where the window ends, as a fraction of the Nyquist frequency.
    """
    views, rows, columns = projections.shape
    length = 1 << (2 * columns - 1).bit_length()
    dtype, device = projections.dtype, projections.device
    response = ramp_filter(length, pitch, filter, cutoff).to(device=device, dtype=dtype)
    by_column = torch.tensor(weights, device=device, dtype=dtype)
    out = torch.empty_like(projections, memory_format=torch.contiguous_format)
    at_once = max(1, _FILTERED_AT_ONCE // (rows * length))
    for begin in range(0, views, at_once):
        part = slice(begin, begin + at_once)
        weighted = projections[part].detach() * cosine(part) * by_column[part, None, :]
        spectrum = torch.fft.rfft(weighted, n=length) * response
        out[part] = torch.fft.irfft(spectrum, n=length)[..., :columns]
    return out
