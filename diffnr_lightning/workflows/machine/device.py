"""The device that a command computes on, by the words that all commands share."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


ALL_GPUS = "cuda:all"


def all_gpus() -> list[str]:
    """Return every GPU that torch finds, as cuda:N.

    Raises:
        ValueError: it finds none.
    """
    import torch

    found = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if not found:
        raise ValueError(f"device is {ALL_GPUS!r} but torch finds no GPU; use --device cpu.")
    return found


def repeat_convolutions() -> None:
    """Let cuDNN take only those of its algorithms whose results repeat to the bit."""
    import torch

    torch.backends.cudnn.deterministic = True


def use_device(name: str) -> torch.device:
    """Check a device and make a GPU the current one, on which kernels run and convolutions repeat to the bit.

    Args:
        name: cpu, cuda (the first GPU) or cuda:N.

    Raises:
        ValueError: another word, or a GPU that torch does not find.
    """
    words = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if words is None:
        raise ValueError(f"device is {name!r}; cpu, cuda or cuda:N is expected.")
    import torch

    if name == "cpu":
        return torch.device(name)
    number, count = int(words[1] or 0), torch.cuda.device_count()
    if number >= count:
        found = f"torch finds {count} GPUs" if count else "torch finds no GPU"
        raise ValueError(
            f"device is {name!r} but {found}; "
            + (f"a number below {count} is expected." if count else "use --device cpu.")
        )
    torch.cuda.set_device(number)
    repeat_convolutions()
    return torch.device("cuda", number)
