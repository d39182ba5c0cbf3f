"""Score five volumes on two gloo processes, three and two; each writes what it computed. Run by a test."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from diffnr_lightning.protocol_metrics import ScoreMean, VolumeProtocol, VolumePsnr, every_protocol


def volumes(count: int = 5) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs of predictions and truths."""
    generator = torch.Generator().manual_seed(0)
    truths = [torch.rand(8, 9, 10, generator=generator) for _ in range(count)]
    noises = [0.05 * (1 + n) * torch.randn(8, 9, 10, generator=generator) for n in range(count)]
    return [(truth + noise, truth) for truth, noise in zip(truths, noises, strict=True)]


def scored(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, float]:
    """What all metrics make of some pairs, on all processes."""
    metrics = [every_protocol(), VolumeProtocol("strict"), VolumePsnr()]
    gains = ScoreMean(("gain",), least=("gain",))
    for prediction, truth in pairs:
        for metric in metrics:
            metric.update(prediction, truth)
        gains.update({"gain": (prediction - truth).mean()})
    found = [metric.compute() for metric in (*metrics, gains)]
    return {
        f"{n}_{name}": value.item() for n, one in enumerate(found) for name, value in one.items()
    }


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(scored(volumes()[rank::2]), Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(work, (sys.argv[1],), nprocs=2)
