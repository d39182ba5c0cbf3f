"""Every method on every case: what the tables of `experiments/` are made of."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeAlias

from diffnr_lightning.data.generated import source_name
from diffnr_lightning.data.scan_recipe import LEAST_VIEWS
from diffnr_lightning.lazy import deferred
from diffnr_lightning.workflows.cases.scanned_case import scanned_case
from diffnr_lightning.workflows.cases.volume_sources import volume_sources
from diffnr_lightning.workflows.command_line.config_files import (
    config_files,
    method_name,
    refuse_bare_overlay,
)
from diffnr_lightning.workflows.command_line.settings import Settings, configured
from diffnr_lightning.workflows.command_line.signature import at_least, folder_to_be
from diffnr_lightning.workflows.machine.device import ALL_GPUS, all_gpus, use_device
from diffnr_lightning.workflows.machine.workers import Worker, run_workers
from diffnr_lightning.workflows.pairs.shards import shard_of
from diffnr_lightning.workflows.reconstruction import reconstruct
from diffnr_lightning.workflows.runs.folder_lock import FolderInUseError, folder_lock
from diffnr_lightning.workflows.runs.run_folder import RunFolder
from diffnr_lightning.workflows.scanning import simulate
from diffnr_lightning.workflows.tables.failures import Failures
from diffnr_lightning.workflows.tables.table_logging import check_logger, group_of, log_tables

Device = deferred("torch.device")

logger = logging.getLogger("diffnr")

CASE = "case"


def sweep(
    volumes: list[str],
    methods: list[str],
    out: Annotated[Path, folder_to_be("runs")],
    views: list[int],
    scans: tuple[str, ...] = ("data/body.yaml",),
    curves: str | None = None,
    summary: bool = True,
    seed: Annotated[int | None, at_least(0, "seed")] = None,
    device: str = "cpu",
    shard: str = "0/1",
) -> Path:
    """Scan volumes in several ways and with several numbers of views, and reconstruct each scan by several methods.

    Finished runs are left alone, so that the same command goes on where it stopped and shards can share the work. What
    stands first in a list comes first: scans vary slowest, then views, then volumes. Shorter lists on the command line
    run a part of a table, in the same folders. A volume that cannot be scanned or reconstructed does not stop the rest:
    it is told of at once and, as an error, when that is finished.

    Args:
        volumes: files, glob patterns, sets of a split (`split:test`, `split:test[kind=head,limb]`) or of a data set
            (`luna16:test`, `toothfairy:test[0:5]`, `folder:/data/ct`), or generated objects: `phantom:` (chests),
            `specimen:` or `ellipsoids:` with SEED or FIRST-LAST.
        methods: config files of `reconstruct`, by path or name, those of one method joined by `+`, such as
            `naf+diffnr/align`.
        out: folder; gets `<scan>/<views>_views/<volume>/case` and `<scan>/<views>_views/<volume>/<method>`.
        views: numbers of views.
        scans: config files of `simulate`, likewise: `data/body+data/photons_1e5` is a scan fitted to the body with the
            noise of the second file, and its folder is called `body+photons_1e5`.
        curves: config file of a Lightning logger, such as `loggers/wandb.yaml`; each run gets a logger of its own,
            and the sweep is their group where the logger has groups.
        summary: with curves, log the table of all runs as a run of its own when the last of them is finished.
        seed: of the methods; null takes the cases'.
        device: where to compute: cpu, cuda or cuda:N; cuda:all shares the scans among all GPUs of the machine, one
            process each.
        shard: `K/N` takes every Nth scan, beginning with scan K.

    Raises:
        ValueError: no or fewer than two views, a number of views given twice, a shard or device that does not exist,
            two volumes, scans or methods of one name, a folder that holds a case or run of other settings, a method
            that a GPU has no room for, or scans that could not be finished.
        ChildProcessError: the process of a GPU failed; the others have done their shares.
        FileNotFoundError: a config or volume that does not exist, or a pattern that matches no file.
        ImportError: a package of the logger that is not installed.
    """
    if not methods:
        raise ValueError("methods is empty; at least one config of `reconstruct` is expected.")
    if not scans:
        raise ValueError("scans is empty; at least one config of `simulate` is expected.")
    if not views:
        raise ValueError("views is empty; at least one number of views is expected.")
    # The recipe would refuse them too, when the scans before had been reconstructed.
    if min(views) < LEAST_VIEWS:
        raise ValueError(f"views has {min(views)}; at least two views of each scan are expected.")
    if repeated := [number for number in set(views) if views.count(number) > 1]:
        raise ValueError(f"views has {min(repeated)} more than once; each number once is expected.")
    sources = volume_sources(volumes)
    part, parts = shard_of(shard)
    devices = all_gpus() if device == ALL_GPUS else [device]
    # A GPU that is made the current one holds memory for this process.
    place = use_device(devices[0]) if len(devices) == 1 else None
    loggers = [] if curves is None else config_files(curves)
    named = {name: [*files, *loggers] for name, files in _named("methods", methods).items()}
    if curves is not None:
        check_logger(curves, out)
    if CASE in named:
        raise ValueError(
            f"methods has a file called {CASE}, whose folder would be that of the case; rename the file."
        )
    recipes = _named("scans", scans)
    common: dict[str, Any] = {} if seed is None else {"seed": seed}
    if place is None:
        options = {"out": out, "curves": curves, "summary": None if summary else "false", **common}
        lists = {"volumes": volumes, "methods": methods, "views": views, "scans": scans}
        lists |= {name: [value] for name, value in options.items() if value is not None}
        run_workers(_workers(devices, lists, part, parts))
        return out
    table = _Table(out, sources, recipes, named, {**common, "device": devices[0]})
    wanted = list(product(recipes, views, sources))[part::parts]
    if place.type == "cuda":
        table.refuse_what_cannot_fit(wanted, place)
    table.refuse_what_is_mistyped(wanted)
    table.fill_all(wanted)
    if curves is not None and summary:
        table.log(curves, {"volumes": volumes, "methods": methods, "views": views, "scans": scans})
    return out


# Scan, number of views, volume.
_Key: TypeAlias = tuple[str, int, str]


class _Table(NamedTuple):
    """What a sweep reconstructs: every scan, number of views and volume by every method."""

    out: Path
    sources: dict[str, str]
    recipes: dict[str, list[Path]]
    methods: dict[str, list[Path]]
    common: dict[str, Any]

    def folder(self, scan: str, count: int, name: str) -> Path:
        return self.out / scan / f"{count}_views" / name

    def scanning(self, scan: str, count: int, name: str) -> Settings:
        source = self.sources[name]
        case: dict[str, Any] = {"volume": source, "num_views": count}
        # Two files of one name are two cases, of which each has a name and so a seed of its own.
        if name != source_name(source):
            case["name"] = name
        folder = self.folder(scan, count, name) / CASE
        return configured(simulate, self.recipes[scan], {**case, "out": folder})

    def run(self, scan: str, count: int, name: str, method: str) -> Settings:
        """Return the settings of a run; a logger that has groups is put into that of the sweep."""
        folder = self.folder(scan, count, name)
        overrides = {**self.common, "case": folder / CASE, "out": folder / method}
        settings = configured(reconstruct, self.methods[method], overrides)
        group = group_of(settings, self.out)
        if group:
            return configured(reconstruct, self.methods[method], overrides | group)
        return settings

    def refuse_what_is_mistyped(self, wanted: Sequence[_Key]) -> None:
        """Read every config once, before anything is written: what is wrong there is wrong for all volumes."""
        for key in {scan: (scan, count, name) for scan, count, name in wanted}.values():
            self.scanning(*key)
        for key in wanted[:1]:
            for method in self.methods:
                self.run(*key, method)

    def fill_all(self, wanted: Sequence[_Key]) -> None:
        """Fill all scans; what cannot be made or reconstructed is told of when the others are finished."""
        failures = Failures("scans or runs")
        for number, (scan, count, name) in enumerate(wanted, 1):
            where = f"{scan}, {count} views, {name}"
            logger.info("scan %d of %d: %s", number, len(wanted), where)
            with failures.kept(where):
                self.fill(scan, count, name, failures)
        failures.tell()

    def fill(self, scan: str, count: int, name: str, failures: Failures) -> None:
        """Scan one volume, where that has not been done, and reconstruct it by one method after another."""
        from diffnr_lightning.data import load_case

        fingerprint = load_case(scanned_case(self.scanning(scan, count, name))).fingerprint()
        for method in self.methods:
            with failures.kept(f"{scan}, {count} views, {name}, {method}"):
                self.finish(scan, count, name, method, fingerprint)
            # Trainer and module hold each other, and so networks and volumes of the run.
            gc.collect()

    def finish(self, scan: str, count: int, name: str, method: str, fingerprint: str) -> None:
        """Reconstruct a case of this fingerprint by a method, where that has not been done."""
        run = self.run(scan, count, name, method)
        if not _is_finished(run, fingerprint):
            reconstruct(**run.arguments)

    def log(self, curves: str, settings: dict[str, Any]) -> None:
        """Log the table of all runs once the last of them is finished, by whichever shard that is.

        Of shards that end together each finds all runs finished: the first one logs, the others leave it to that.
        """
        from diffnr_lightning.reports import plain_rows, read_run, score_table

        scans = product(self.recipes, settings["views"], self.sources)
        runs = [self.folder(*key) / method for key in scans for method in self.methods]
        if all((run / "metrics.json").is_file() for run in runs):
            table = score_table([read_run(run) for run in runs])
            means, cases = plain_rows(table, table.means), plain_rows(table, table.cases)
            try:
                with folder_lock(self.out / ".logging", wait=False):
                    log_tables(curves, self.out, {"means": means, "cases": cases}, settings)
            except FolderInUseError as holder:
                logger.info("the table of %s is being logged by %s", self.out, holder)

    def refuse_what_cannot_fit(self, wanted: Sequence[_Key], place: Device) -> None:
        """Refuse methods for which a GPU has no room, before anything is written.

        The need follows from shapes: of the runs that differ in their volume alone, one tells for all.
        """
        from diffnr_lightning.data import planned_geometry
        from diffnr_lightning.workflows.machine.memory_refusal import refuse_what_cannot_fit

        left = {
            (scan, count, method): name
            for scan, count, name in wanted
            for method in self.methods
            if not (self.folder(scan, count, name) / method / "metrics.json").is_file()
        }
        for (scan, count, method), name in left.items():
            given = self.run(scan, count, name, method).arguments
            recipe = self.scanning(scan, count, name).arguments["recipe"]
            grid, views = planned_geometry(recipe)
            grid, _ = grid.enlarged(given["pad"])
            weighted = given["weights"] == "auto"
            try:
                refuse_what_cannot_fit(given["method"], grid, views, place, weighted=weighted)
            except ValueError as error:
                raise ValueError(f"{method} at {count} views of {scan}: {error}") from None


def _workers(
    devices: Sequence[str], lists: Mapping[str, Sequence[Any]], part: int, parts: int
) -> list[Worker]:
    """Return a sweep for each device, of its share of the scans of this one."""
    words = [word for name, values in lists.items() for word in (f"--{name}", *map(str, values))]
    command = [sys.executable, "-m", "diffnr_lightning.cli", "sweep", *words]
    return [
        Worker(
            device,
            [
                *command,
                "--device",
                device,
                "--shard",
                f"{part + number * parts}/{parts * len(devices)}",
            ],
        )
        for number, device in enumerate(devices)
    ]


def _named(what: str, entries: Sequence[str]) -> dict[str, list[Path]]:
    """Return the config files of each method or scan by the name of its folder."""
    named: dict[str, list[Path]] = {}
    for entry in entries:
        name = method_name(entry)
        if name in named:
            raise ValueError(
                f"{what} has {entry} and another one that would be called {name} too; leave one out or rename its file."
            )
        named[name] = config_files(entry)
        refuse_bare_overlay(named[name])
    return named


def _is_finished(settings: Settings, fingerprint: str) -> bool:
    """Tell before networks are built; refuses, as `reconstruct` does, a run of other settings."""
    run = RunFolder(Path(settings.resolved["out"]), settings.resolved, {"case": fingerprint})
    return run.finished and not run.begin()
