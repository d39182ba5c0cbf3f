"""Every method on every case: what the tables of `experiments/` are made of."""

from __future__ import annotations

import logging
from pathlib import Path

from diffnr_lightning.data.case_metadata import META_FILE
from diffnr_lightning.workflows.curation import shard_of
from diffnr_lightning.workflows.reconstruction import reconstruct
from diffnr_lightning.workflows.scanning import simulate
from diffnr_lightning.workflows.settings import parse, shipped_config
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
        methods: config files of `reconstruct`, as paths or as names below `configs/`.
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
    configs = {Path(method).stem: _config(method) for method in methods}
    part, parts = shard_of(shard)
    sources = volume_sources(volumes)
    scans = [(count, name, source) for count in views for name, source in sources.items()]
    for count, name, source in scans[part::parts]:
        folder = out / f"{count}_views" / name
        if not (folder / "case" / META_FILE).is_file():
            options = ["--config", _config(scan), "--volume", source, "--num_views", str(count)]
            arguments = parse(simulate, [*options, "--out", str(folder / "case")]).arguments
            simulate(**arguments)
        for method, config in configs.items():
            options = ["--config", config, "--case", str(folder / "case"), "--device", device]
            options += [] if seed is None else ["--seed", str(seed)]
            reconstruct(**parse(reconstruct, [*options, "--out", str(folder / method)]).arguments)
    return out


def _config(name: str) -> str:
    return name if Path(name).is_file() else str(shipped_config(name.removeprefix("configs/")))
