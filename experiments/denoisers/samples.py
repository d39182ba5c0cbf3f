"""Draw slices from a denoiser alone, and set the nearest slices of its training beside them.

    python experiments/denoisers/samples.py --denoiser slices --store runs/clean --out runs/denoisers/samples

The store is the one that `diffnr train-denoiser` filled. A prior that has memorised draws slices that lie nearer to its
training than slices of other bodies do: the distances of both are printed, those of others from the volumes that the
training held out. The picture shows samples above their nearest slices.

Distances are root mean squares of attenuation in [0, 1], of slices in 32 x 32 blocks, turned over as in training.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from diffnr_lightning.priors import load_denoiser
from diffnr_lightning.priors.denoisers.denoiser_folders import denoiser_folder, read_metadata

BLOCKS = 32
# Slices of almost nothing but air are like each other, whatever a prior has learned.
LEAST_MEAN = 0.05


class Nearest(NamedTuple):
    """Nearest slice of the training to each of some slices."""

    distance: Tensor
    slices: Tensor


@torch.no_grad()
def sample(denoiser: nn.Module, count: int, size: int, steps: int, seed: int) -> Tensor:
    """Return slices (N, H, W) in [0, 1] that a denoiser of slices makes of noise alone, by ancestral steps."""
    schedule, (low, high) = denoiser.schedule, denoiser.scale
    generator = torch.Generator().manual_seed(seed)
    times = schedule.timesteps(steps)
    noisy = torch.randn(count, 1, size, size, generator=generator)
    for step, after in zip(times, [*times[1:], None], strict=True):
        noise = denoiser.predict(noisy, step, {"gap": 0})
        clean = schedule.estimate(noisy, noise, step).clamp(low, high)
        if after is not None:
            noise = schedule.noise(noisy, clean, step)
            fresh = torch.randn(noisy.shape, generator=generator)
            noisy = schedule.ddim_step(clean, noise, after, fresh, schedule.ancestral(step, after))
    return ((clean[:, 0] - low) / (high - low)).clamp(0, 1)


def slices_of(path: Path) -> Tensor:
    """Return the slices (N, H, W) of all planes of a stored volume that show more than air."""
    with safe_open(path, "pt") as file:
        volume = file.get_tensor("clean").float()
    every = torch.cat([volume, volume.transpose(0, 1), volume.permute(2, 0, 1)])
    return every[every.mean(dim=(1, 2)) > LEAST_MEAN]


def in_blocks(slices: Tensor) -> Tensor:
    """Return slices (N, H, W) as vectors of the means of their blocks."""
    return F.adaptive_avg_pool2d(slices[:, None], BLOCKS).flatten(1)


def turned_over(slices: Tensor) -> Iterator[Tensor]:
    """Yield slices as they are, and turned over along either axis and both."""
    for axes in ((), (1,), (2,), (1, 2)):
        yield slices.flip(axes)


def nearest(slices: Tensor, paths: list[Path]) -> Nearest:
    """Return the nearest slices of stored volumes, and how far they are."""
    best = torch.full((len(slices),), torch.inf)
    found = torch.zeros_like(slices)
    for path in paths:
        stored = slices_of(path)
        blocks = in_blocks(stored)
        for turned in turned_over(slices):
            distance, place = (torch.cdist(in_blocks(turned), blocks) / BLOCKS).min(dim=1)
            closer = distance < best
            best[closer], found[closer] = distance[closer], stored[place[closer]]
    return Nearest(best, found)


def draw(samples: Tensor, neighbours: Nearest, out: Path) -> None:
    """Draw samples above their nearest slices."""
    figure, axes = plt.subplots(2, len(samples), figsize=(1.6 * len(samples), 3.5))
    for column, (image, near, distance) in enumerate(
        zip(samples, neighbours.slices, neighbours.distance, strict=True)
    ):
        for axis, shown in zip(axes[:, column], (image, near), strict=True):
            axis.imshow(shown, cmap="gray", vmin=0.2, vmax=0.8)
            axis.axis("off")
        axes[1, column].set_title(f"{float(distance):.3f}", fontsize=8)
    axes[0, 0].set_title("samples, above the nearest of the training", fontsize=8, loc="left")
    figure.savefig(out.with_suffix(".png"), dpi=120, bbox_inches="tight")


def main() -> None:
    """Sample, search, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--denoiser", required=True, help="name of the package, or folder")
    parser.add_argument("--store", type=Path, required=True, help="of the clean volumes")
    parser.add_argument("--out", type=Path, required=True, help="of the picture, without suffix")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    held_out = read_metadata(denoiser_folder(given.denoiser))["held_out"]
    paths = sorted(given.store.glob("*.safetensors"))
    training = [path for path in paths if path.stem not in held_out]
    others = torch.cat([slices_of(path)[::16] for path in paths if path.stem in held_out])
    samples = sample(
        load_denoiser(given.denoiser), given.count, others.shape[-1], given.steps, given.seed
    )
    found, of_others = nearest(samples, training), nearest(others, training)
    for name, distance in (("samples", found.distance), ("held out", of_others.distance)):
        least, middle = distance.min(), distance.median()
        print(f"{name}: {len(distance)} slices, nearest {least:.4f}, median {middle:.4f}")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    draw(samples, found, given.out)


if __name__ == "__main__":
    main()
