"""A table of a paper in one command: its runs, and published numbers beside ours."""

from __future__ import annotations

import logging
import shlex
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from glob import escape
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from diffnr_lightning.lazy import deferred
from diffnr_lightning.workflows.cases.volume_sources import volume_names
from diffnr_lightning.workflows.command_line.config_files import config_files, method_name
from diffnr_lightning.workflows.command_line.settings import parse
from diffnr_lightning.workflows.command_line.signature import folder_to_be
from diffnr_lightning.workflows.curation import curate
from diffnr_lightning.workflows.machine.device import ALL_GPUS
from diffnr_lightning.workflows.runs.downstream import score_task
from diffnr_lightning.workflows.runs.run_logger import environment_defaults
from diffnr_lightning.workflows.submission import submit as hand_over
from diffnr_lightning.workflows.sweep import sweep
from diffnr_lightning.workflows.tables.experiment import (
    Experiment,
    ExperimentRow,
    Part,
    Scale,
    Training,
    read_experiment,
)
from diffnr_lightning.workflows.tables.failures import is_failure, let_go
from diffnr_lightning.workflows.tables.table_checks import (
    check_method,
    check_scans,
    check_training,
    refuse_what_cannot_be_submitted,
    training_command,
    warn_of_other_settings,
)
from diffnr_lightning.workflows.tables.table_logging import check_logger, log_tables

RunSummary = deferred("diffnr_lightning.reports.runs.RunSummary")

logger = logging.getLogger("diffnr")


def table(
    name: str,
    scale: Scale = "full",
    out: Annotated[Path | None, folder_to_be("table")] = None,
    rows: list[str] | None = None,
    views: list[int] | None = None,
    curves: str | None = None,
    plan: bool = False,
    run: bool = True,
    device: str = "cpu",
    submit: Literal["slurm", "local"] | None = None,
    jobs: int = 1,
    options: dict[str, Any] | None = None,
) -> Path:
    """Make the runs of a table of a paper and show published numbers beside ours.

    Finished runs are left alone, so that the same command goes on where it stopped. A row that fails is named under
    the table and stops no other.

    Args:
        name: folder of an experiment, or its name in `experiments/`, such as diffnr/1.
        scale: full is the table itself; miniature has the same rows on a generated chest of 32^3 voxels, with a few
            iterations of each.
        out: folder of the runs and of table.md, table.csv and table.html; null is runs/tables/NAME/SCALE.
        rows: names of those that are run and shown; null is all.
        views: numbers of views of the table that are run and shown, likewise.
        curves: config file of a Lightning logger, such as `loggers/wandb.yaml`: each run gets a logger of its own, the
            table another one, and all are one group where the logger has groups.
        plan: print the commands that would make the runs, write the configs by which they find networks that are
            trained first, and stop.
        run: make what is missing; false shows what is finished, such as while a cluster works on the rest.
        device: where to compute: cpu, cuda, cuda:N or cuda:all. Pairs and trainings of one device take the first of all
            GPUs, trainings whose configs ask for several devices take those.
        submit: hand the runs over to this cluster, one `sweep` for each set of volumes, and stop; the same command
            without it shows what is finished.
        jobs: into which each of these sweeps is divided.
        options: of the jobs, see `diffnr submit`.

    Returns:
        The folder of the table.

    Raises:
        FileNotFoundError: no such experiment.
        ValueError: a row or number of views that is not there, options of jobs without `submit`, or rows that failed;
            the table is written then too.
    """
    for option, value, usual in (("jobs", jobs, 1), ("options", options or {}, {})):
        if submit is None and value != usual:
            raise ValueError(
                f"{option} is {value} without --submit, where there are no jobs; leave it out, or give --submit slurm."
            )
    whole = read_experiment(name, scale)
    experiment = whole.with_views(views)
    folder = out or Path("runs/tables") / experiment.name / scale
    kept = _kept(experiment, rows)
    runnable = [row for row in kept if row.method]
    if plan:
        _write_overlays(runnable, folder)
        for command in _commands(experiment, runnable, folder, device, curves):
            print("diffnr", shlex.join(command))
        return folder
    if curves is not None:
        check_logger(curves, folder)
    failed = _failing(runnable, lambda row: _check_files(row, folder))
    if run or submit:
        check_scans(experiment, folder)
        found = [row for row in runnable if row.name not in failed]
        failed |= _failing(
            found, lambda row: _check_commands(experiment, row, folder, device, curves)
        )
    runnable = [row for row in runnable if row.name not in failed]
    if not (run or submit):
        warn_of_other_settings(runnable, folder)
    if submit:
        refuse_what_cannot_be_submitted(submit, kept, runnable, failed, folder)
        for part in experiment.parts:
            command = [*experiment.sweep(part, runnable, folder), *_placed(device, curves)]
            hand_over(shlex.join(command), folder / "jobs", jobs, submit, options)
        if failed:
            raise ValueError(
                f"{len(failed)} of {len(kept)} rows failed ({', '.join(failed)}) and were not submitted; messages "
                "above say why."
            )
        return folder
    with environment_defaults({"WANDB_RUN_GROUP": str(folder) if curves else ""}):
        if run:
            failed |= _run(experiment, runnable, folder, device, curves)
        some = None if experiment == whole else views
        _show(experiment, kept, failed, folder, curves, some)
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(kept)} rows failed ({', '.join(failed)}); {folder / 'table.md'} says why, and the "
            "same command goes on."
        )
    return folder


def _run(
    experiment: Experiment,
    rows: Sequence[ExperimentRow],
    folder: Path,
    device: str,
    curves: str | None,
) -> dict[str, str]:
    """Make what is missing of rows, and return why some failed."""
    failed = {}
    for row in rows:
        logger.info("%s", row.name)
        try:
            _train(experiment, row, folder, device, curves)
            for part in experiment.parts:
                command = experiment.sweep(part, [row], folder)
                command += [*_placed(device, curves), "--summary", "false"]
                sweep(**parse(sweep, command[1:]).arguments)
        except Exception as error:
            if not is_failure(error):
                raise
            let_go(error)
            failed[row.name] = f"failed: {_sentence(error)}"
            logger.warning("%s %s", row.name, failed[row.name])
    return failed


def _placed(device: str, curves: str | None) -> list[str]:
    """Return the words of a sweep that say where it computes and what logs it."""
    return ["--device", device, *([] if curves is None else ["--curves", curves])]


def _write_overlays(rows: Sequence[ExperimentRow], folder: Path) -> None:
    """Write the configs by which methods of a printed or submitted sweep find networks that are trained elsewhere."""
    for row in rows:
        for training in row.trainings(folder):
            training.write_overlay()


def _training_words(training: Training, device: str, curves: str | None) -> list[str]:
    """Return the command of a training on a device with its logger, without `diffnr`."""
    logged = [] if curves is None else ["--config", curves]
    return [*_placed_alone(training.words, device), *logged]


def _placed_alone(words: Sequence[str], device: str) -> list[str]:
    """Return the command of a training on a device, on the first GPU of all; one on several devices stays as it is."""
    if not _is_alone(words):
        return list(words)
    return [*words, "--device", "cuda" if device == ALL_GPUS else device]


def _is_alone(words: Sequence[str]) -> bool:
    """Whether the configs of a command ask for one device of one machine."""
    asked: dict[str, Any] = {}
    for path in config_files(words[words.index("--config") + 1]):
        asked |= yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return all(str(asked.get(key, 1)) == "1" for key in ("devices", "num_nodes"))


def _kept(experiment: Experiment, names: Sequence[str] | None) -> list[ExperimentRow]:
    known = {row.name: row for row in experiment.rows}
    if names is not None and not names:
        raise ValueError(f"rows is empty; any of {', '.join(known)} are expected.")
    for name in names or ():
        if name not in known:
            raise ValueError(f"rows has {name!r}; any of {', '.join(known)} are expected.")
    return [row for row in experiment.rows if names is None or row.name in names]


def _commands(
    experiment: Experiment,
    rows: Sequence[ExperimentRow],
    folder: Path,
    device: str,
    curves: str | None,
) -> list[list[str]]:
    """Return the commands that make all runs, without `diffnr`."""
    trainings = [training for row in rows for training in row.trainings(folder)]
    each = {training.overlay: training for training in trainings}.values()
    curation = [experiment.curation(folder)] if any(t.pairs for t in trainings) else []
    return [
        *(_placed_alone(command, device) for command in curation),
        *(_training_words(training, device, curves) for training in each),
        *(
            [*experiment.sweep(part, rows, folder), *_placed(device, curves)]
            for part in (experiment.parts if rows else ())
        ),
    ]


def _train(
    experiment: Experiment, row: ExperimentRow, folder: Path, device: str, curves: str | None
) -> None:
    """Train what a row learns and is not trained yet."""
    for training in row.trainings(folder):
        if training.finished:
            continue
        if training.pairs:
            words = _placed_alone(experiment.curation(folder), device)
            curate(**parse(curate, words[1:]).arguments)
        _run_training(_training_words(training, device, curves))


def _run_training(words: Sequence[str]) -> None:
    """Run the command of a training, given without `diffnr`; one on several devices in a process of its own.

    Its further processes are started by the command line of the first, which has to be that of the training.

    Raises:
        ValueError: such a process that failed.
    """
    if _is_alone(words):
        command = training_command(words)
        command(**parse(command, words[1:]).arguments)
        return
    ended = subprocess.run([sys.executable, "-m", "diffnr_lightning.cli", *words], check=False)
    if ended.returncode:
        raise ValueError(
            f"diffnr {shlex.join(words)} ended with code {ended.returncode}; its messages are above, and the same "
            "command goes on."
        )


def _failing(
    rows: Sequence[ExperimentRow], check: Callable[[ExperimentRow], None]
) -> dict[str, str]:
    """Return why rows do not pass a check, by row."""
    failed = {}
    for row in rows:
        try:
            check(row)
        except (ImportError, OSError, TypeError, ValueError) as error:
            failed[row.name] = f"failed: {_sentence(error)}"
            logger.warning("%s %s", row.name, failed[row.name])
    return failed


def _check_files(row: ExperimentRow, folder: Path) -> None:
    """Find the files of a row."""
    config_files(row.method or "")
    for training in row.trainings(folder):
        training.check_overlay()


def _check_commands(
    experiment: Experiment, row: ExperimentRow, folder: Path, device: str, curves: str | None
) -> None:
    """Read the commands of a row, and write the configs by which its method finds what it learns."""
    for training in row.trainings(folder):
        training.write_overlay()
        words = _training_words(training, device, curves)
        check_training(training, words, experiment.curation(folder))
    check_method(row, folder)


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _show(
    experiment: Experiment,
    rows: Sequence[ExperimentRow],
    failed: Mapping[str, str],
    folder: Path,
    curves: str | None,
    views: Sequence[int] | None,
) -> None:
    """Print, write and log what is finished; `views` are those of the table that are left, None all."""
    from diffnr_lightning.reports import (
        RowRuns,
        paper_lines,
        plain_lines,
        print_paper_table,
        read_published,
        remarks_without_lines,
        write_paper_table,
        write_provenance,
    )

    names = {part.name: _volumes(part) for part in experiment.parts}
    found = [
        RowRuns(
            row.name,
            {
                part.name: _finished(experiment, row, part, folder, names[part.name])
                for part in experiment.parts
            },
            failed.get(row.name) or row.reason or "",
        )
        for row in rows
    ]
    shown = {row.name for row in rows}
    every = {row.name for row in experiment.rows}
    published = [] if experiment.paper is None else read_published(experiment.paper)
    published = [n for n in published if n.method in shown or n.method not in every]
    lines = paper_lines(found, published, views=views)
    if experiment.scale != "full":
        lines = [line._replace(comparable=False) for line in lines]
    notes = [*experiment.notes, *remarks_without_lines(found, lines)]
    print_paper_table(experiment.title, lines, notes)
    page = write_paper_table(folder, experiment.title, lines, notes)
    # Rows of one method are the same runs.
    made = {run.folder: run for row in found for runs in row.runs.values() for run in runs}
    write_provenance(list(made.values()), folder / "table.csv")
    logger.info("%s: the table as Markdown, CSV and a page", page.parent)
    if curves is not None:
        told = {"table": experiment.name, "scale": experiment.scale}
        log_tables(curves, folder, {"table": plain_lines(lines)}, told)


def _volumes(part: Part) -> set[str] | None:
    """Return the names of the volumes of a part; None where they are not there to be counted, as runs may be alone."""
    from omegaconf import OmegaConf

    try:
        volumes = OmegaConf.to_container(OmegaConf.create(list(part.volumes)), resolve=True)
        return volume_names(volumes)
    except (OSError, ValueError):
        return None


def _finished(
    experiment: Experiment,
    row: ExperimentRow,
    part: Part,
    folder: Path,
    names: Collection[str] | None = None,
) -> list[RunSummary]:
    """Read the finished runs of a row on one part, by scans and views in their order; `names` are of its volumes.

    Runs of volumes that the table had before may lie there too.
    """
    from diffnr_lightning.reports import read_run

    if not row.method:
        return []
    folders = [
        metrics.parent
        for scan in part.scans
        for views in part.views
        for metrics in sorted(
            (folder / part.folder / method_name(scan) / f"{views}_views").glob(
                f"*/{escape(method_name(row.entry(folder)))}/metrics.json"
            )
        )
        if names is None or metrics.parent.parent.name in names
    ]
    if experiment.downstream is not None:
        score_task(experiment.downstream, [read_run(run) for run in folders])
    return [read_run(run) for run in folders]
