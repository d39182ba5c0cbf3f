"""Every method on every case: what the tables of `experiments/` are made of."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from diffnr_lightning.workflows.config_files import config_files, method_name
from diffnr_lightning.workflows.curation import shard_of
from diffnr_lightning.workflows.device import use_device
from diffnr_lightning.workflows.reconstruction import reconstruct
from diffnr_lightning.workflows.run_folder import RunFolder
from diffnr_lightning.workflows.scanned_case import scanned_case
from diffnr_lightning.workflows.scanning import simulate
from diffnr_lightning.workflows.settings import Settings, configured
from diffnr_lightning.workflows.signature import folder_to_be
from diffnr_lightning.workflows.volume_sources import volume_sources

logger = logging.getLogger("diffnr")

CASE = "case"


def sweep(
    volumes: list[str],
    methods: list[str],
    out: Annotated[Path, folder_to_be("runs")],
    views: list[int],
    scans: tuple[str, ...] = ("data/body.yaml",),
    curves: str | None = None,
    seed: int | None = None,
    device: str = "cpu",
    shard: str = "0/1",
) -> Path:
    """Scan volumes in several ways and with several numbers of views, and reconstruct each scan by several methods.

    Finished runs are left alone, so that the same command goes on where it stopped and shards can share the work. What
    stands first in a list comes first: scans vary slowest, then views, then volumes. Shorter lists on the command line
    run a part of a table, in the same folders.

    Args:
        volumes: files, glob patterns, sets of a split (`split:test`, `split:test[kind=head,limb]`), or generated
            objects: `phantom:` (chests) or `specimen:` with SEED or FIRST-LAST.
        methods: config files of `reconstruct`, by path or name, those of one method joined by `+`, such as
            `naf+diffnr/align`.
        out: folder; gets `<scan>/<views>_views/<volume>/case` and `<scan>/<views>_views/<volume>/<method>`.
        views: numbers of views.
        scans: config files of `simulate`, likewise: `data/body+data/photons_1e5` is a scan fitted to the body with the
            noise of the second file, and its folder is called `body+photons_1e5`.
        curves: config file of a Lightning logger, such as `loggers/wandb.yaml`; each run gets a logger of its own,
            and the sweep is their group where the logger has groups.
        seed: of the methods; null takes the cases'.
        device: where to compute: cpu, cuda or cuda:N.
        shard: `K/N` takes every Nth scan, beginning with scan K.

    Raises:
        ValueError: a shard or device that does not exist, two volumes, scans or methods of one name, or a folder that
            holds a case or run of other settings.
        FileNotFoundError: a config or volume that does not exist, or a pattern that matches no file.
    """
    if not methods:
        raise ValueError("methods is empty; at least one config of `reconstruct` is expected.")
    if not scans:
        raise ValueError("scans is empty; at least one config of `simulate` is expected.")
    sources = volume_sources(volumes)
    part, parts = shard_of(shard)
    use_device(device)

    from diffnr_lightning.data import load_case

    loggers = [] if curves is None else config_files(curves)
    named = {name: [*files, *loggers] for name, files in _named("methods", methods).items()}
    if CASE in named:
        raise ValueError(
            f"methods has a file called {CASE}, whose folder would be that of the case; rename the file."
        )
    recipes = _named("scans", scans)
    wanted = list(product(recipes, views, sources))[part::parts]
    common: dict[str, Any] = {"device": device, **({} if seed is None else {"seed": seed})}
    for scan, count, name in wanted:
        folder = out / scan / f"{count}_views" / name
        case = {"volume": sources[name], "num_views": count, "out": folder / CASE}
        scanning = configured(simulate, recipes[scan], case)
        # Before the case is written: what is wrong with a method is known then.
        runs = [
            _run(configs, out, {**common, "case": case["out"], "out": folder / method})
            for method, configs in named.items()
        ]
        fingerprint = load_case(scanned_case(scanning)).fingerprint()
        for run in runs:
            if not _is_finished(run, fingerprint):
                reconstruct(**run.arguments)
    return out


def _named(what: str, entries: Sequence[str]) -> dict[str, list[Path]]:
    """Return the config files of each method or scan by the name of its folder."""
    named: dict[str, list[Path]] = {}
    for entry in entries:
        name = method_name(entry)
        if name in named:
            raise ValueError(
                f"{what} has {entry} and another one that would be called {name} too; rename one of the files."
            )
        named[name] = config_files(entry)
    return named


def _run(configs: list[Path], out: Path, overrides: dict[str, Any]) -> Settings:
    """Return the settings of a run; a logger that has groups is put into that of the sweep."""
    settings = configured(reconstruct, configs, overrides)
    options = (settings.resolved.get("curves") or {}).get("init_args", {})
    if "group" in options and options["group"] is None:
        return configured(reconstruct, configs, {**overrides, "curves.init_args.group": str(out)})
    return settings


def _is_finished(settings: Settings, fingerprint: str) -> bool:
    """Tell before networks are built; refuses, as `reconstruct` does, a run of other settings."""
    run = RunFolder(Path(settings.resolved["out"]), settings.resolved, {"case": fingerprint})
    if not run.finished:
        return False
    run.open()
    logger.info("%s is finished already", run.path)
    return True
