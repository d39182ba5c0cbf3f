"""Made-up curated scans, and whether two pairs drawn of them are the same."""

import torch

from diffnr_lightning.batches import SlicePair
from diffnr_lightning.data.slice_pairs import ScanPairs


def scan(case="chest", shape=(10, 14, 18), snapshots=2, equal=False, seed=0) -> ScanPairs:
    generator = torch.Generator().manual_seed(seed)
    clean = 0.1 + 0.8 * torch.rand(shape, generator=generator)
    noise = 0 if equal else 0.1 * torch.rand(snapshots, *shape, generator=generator)
    degraded = (clean + noise).expand(snapshots, *shape)
    biplanar = torch.rand(2, 8, 8, generator=generator)
    info = {"case": case, "views": 24}
    residual = clean - degraded
    kept = (degraded.half(), clean.half(), biplanar.half(), info, residual.half())
    return ScanPairs(*kept, noise=(0.2 * clean).half())


def same(one: SlicePair, other: SlicePair) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
