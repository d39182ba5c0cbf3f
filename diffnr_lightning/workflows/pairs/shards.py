"""Which scans of a curation a shard makes."""

from __future__ import annotations

import math
from typing import NamedTuple

from diffnr_lightning.lazy import deferred

PairsFolder = deferred("diffnr_lightning.workflows.pairs.pairs_folder.PairsFolder")


def shard_of(shard: str) -> tuple[int, int]:
    """Return part and number of parts of a shard `K/N`; ValueError where there is none such."""
    part, _, parts = shard.partition("/")
    if not (part.isdigit() and parts.isdigit() and int(part) < int(parts)):
        raise ValueError(f"shard is {shard!r}; K/N with K < N is expected, such as 3/25.")
    return int(part), int(parts)


class Job(NamedTuple):
    """One scan that is wanted.

    Attributes:
        volume: name of the volume.
        name: of the scan.
        number: among all scans of the curation; methods take turns by it.
    """

    volume: str
    name: str
    number: int


def jobs_of(
    volumes: list[str],
    unwanted: set[str],
    runs: int,
    methods: int,
    shard: str,
    folder: PairsFolder,
) -> list[Job]:
    """Scans of one shard; a volume that is left out leaves shards and methods of the others as they are.

    Shards take volumes in turn, and the turn begins one shard later whenever volumes, shards and methods would meet
    alike again: of two methods each of two shards would have one, and one of them the slow one.

    Args:
        volumes: names of all.
        unwanted: those that are left out.
        runs: scans of each volume.
        methods: how many take turns by the number of the scan.
        shard: `K/N`.
        folder: of the pairs.

    Raises:
        ValueError: no volume is wanted, or the folder has pairs of one that is left out.
    """
    part, parts = shard_of(shard)
    alike = math.lcm(parts, methods)
    jobs = []
    for number, volume in enumerate(volumes):
        names = [f"{volume}_{run}" for run in range(runs)]
        if volume not in unwanted:
            if (number + number // alike) % parts == part:
                jobs += [Job(volume, name, number * runs + k) for k, name in enumerate(names)]
        elif any(folder.holds(name) for name in names):
            raise ValueError(
                f"{folder.path} holds pairs of {volume}, which exclude leaves out; delete its files."
            )
    if unwanted.issuperset(volumes):
        raise ValueError("exclude leaves no volume to scan; shorten it.")
    return jobs
