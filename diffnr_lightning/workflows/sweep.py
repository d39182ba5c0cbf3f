"""Every method on every case: what the tables of `experiments/` are made of."""

from __future__ import annotations

import logging
from pathlib import Path

from diffnr_lightning.data.case_metadata import META_FILE
from diffnr_lightning.workflows.config_files import method_name
from diffnr_lightning.workflows.curation import shard_of
from diffnr_lightning.workflows.reconstruction import reconstruct
from diffnr_lightning.workflows.scanning import simulate
from diffnr_lightning.workflows.settings import configured
from diffnr_lightning.workflows.volume_sources import volume_sources

logger = logging.getLogger("diffnr")


def sweep(
    volumes: list[str],
    methods: list[str],
    out: Path,
    views: list[int],
    scan: str = "data/body.yaml",
    seed: int | None = None,
    device: str = "cpu",
    shard: str = "0/1",
) -> Path:
    """Scan volumes with several numbers of views and reconstruct each scan by several methods.

    Finished runs are left alone, so that the same command goes on where it stopped and shards can share the work.

    Args:
        volumes: files, glob patterns, or generated objects: `phantom:` (chests) or `specimen:` with SEED or
            FIRST-LAST.
        methods: config files of `reconstruct`, by path or name, those of one method joined by `+`, such as
            `naf+diffnr/align`.
        out: folder; gets `<views>_views/<volume>/case` and `<views>_views/<volume>/<method>`.
        views: numbers of views.
        scan: config file of `simulate`, likewise.
        seed: of the methods; null takes the cases'.
        device: where to compute.
        shard: `K/N` takes every Nth scan, beginning with scan K.

    Raises:
        ValueError: a shard that does not exist, or two volumes of one name.
        FileNotFoundError: a config or volume that does not exist, or a pattern that matches no file.
    """
    named = {method_name(method): method for method in methods}
    part, parts = shard_of(shard)
    sources = volume_sources(volumes)
    scans = [(count, name, source) for count in views for name, source in sources.items()]
    for count, name, source in scans[part::parts]:
        folder = out / f"{count}_views" / name
        if not (folder / "case" / META_FILE).is_file():
            wanted = {"volume": source, "num_views": count, "out": folder / "case"}
            simulate(**configured(simulate, [scan], wanted).arguments)
        for name_of_method, method in named.items():
            wanted = {"case": folder / "case", "device": device, "out": folder / name_of_method}
            wanted |= {} if seed is None else {"seed": seed}
            reconstruct(**configured(reconstruct, [method], wanted).arguments)
    return out
