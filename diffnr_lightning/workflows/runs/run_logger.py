"""What a run hands to a Lightning logger besides its curves: settings, scores, pictures, tables, weights, the end."""

from __future__ import annotations

import inspect
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffnr_lightning.files import write_json, write_text

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

IDENTITY = "tracking.json"
"""File of the id by which a run is known at a tracking service, so that it goes on there when it is resumed."""
COSTS = ("seconds", "peak_memory_mb", "peak_gpu_memory_mb")
LONGEST_TAG = 64


@contextmanager
def logged_run(
    logger: Logger | None,
    settings: Mapping[str, Any],
    folder: Path,
    job: str,
    tags: Sequence[str] = (),
    alone: bool = False,
) -> Iterator[None]:
    """Begin a logger with the settings of a run and finish it when the run ends, however it ends.

    A logger that keeps one run a process, as that of Weights & Biases does, would put the next
    reconstruction of a sweep into the same run otherwise. That service gets the kind of job, tags and an
    id that the folder keeps; what the logger's own config or the environment (`WANDB_RUN_ID`, as its agents set it,
    `WANDB_RUN_GROUP`, `WANDB_JOB_TYPE`, `WANDB_TAGS`) says goes before them.

    Args:
        logger: any logger of Lightning; None logs nothing.
        settings: of the run, nested as YAML holds them.
        folder: of the run.
        job: what is done, such as "reconstruct".
        tags: words to find the run by.
        alone: whether this process does the run by itself.

    Raises:
        ValueError: the logger cannot begin, as without a network or an account at its service.
    """
    if logger is None:
        yield
        return
    if alone:
        log_here()
    with _labelled(logger, folder, job, tags):
        try:
            logger.log_hyperparams(dict(settings))
        except Exception as error:  # clients of services each have their own
            reason = " ".join(str(error).split()).rstrip(".")
            raise ValueError(
                f"curves is a {type(logger).__name__} that cannot begin a run ({reason}); "
                "log in to its service, let it work offline, or leave curves out."
            ) from error
        try:
            yield
        except BaseException:
            _finish(logger, "failed")
            raise
        _finish(logger, "success")


def log_here() -> None:
    """Let loggers write in this process, which does its run alone.

    Lightning takes the number that a scheduler has given a task for a rank, and all but the first would log nothing.
    """
    import torch.distributed
    from lightning.pytorch.utilities import rank_zero_only

    if not torch.distributed.is_initialized():
        rank_zero_only.rank = 0


@contextmanager
def environment_defaults(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables that are not set, for a while.

    Args:
        variables: value by name; empty ones are left out.
    """
    new = {name: value for name, value in variables.items() if value and name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


def log_scores(
    logger: Logger,
    metrics: Mapping[str, Any],
    step: int,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Log the final scores of a reconstruction; services show the last value of each as its summary.

    Args:
        logger: of the run.
        metrics: as in ``metrics.json``: `protocols` and `projections` of numbers, means of `chi_square`, and costs.
        step: iterations done.
        settings: of the run, beside which a logger that can do so (TensorBoard) shows the scores.
    """
    scores = {
        f"{protocol}/{name}": value
        for protocol, numbers in metrics.get("protocols", {}).items()
        for name, value in numbers.items()
    }
    groups = {
        "views": metrics.get("projections", {}),
        "chi_square": metrics.get("chi_square", {}).get("mean", {}),
        "prior": metrics.get("prior", {}),
    }
    for group, numbers in groups.items():
        scores |= {f"{group}/{name}": value for name, value in numbers.items()}
    scores |= {key: metrics[key] for key in COSTS if key in metrics}
    scores = {name: value for name, value in scores.items() if isinstance(value, int | float)}
    if settings is not None and "metrics" in inspect.signature(logger.log_hyperparams).parameters:
        logger.log_hyperparams(dict(settings), scores, step)
    else:
        logger.log_metrics(scores, step=step)


def log_preview(logger: Logger, path: Path, step: int) -> None:
    """Log a PNG picture where the logger takes pictures.

    Args:
        logger: of the run.
        path: of the picture.
        step: iterations done.
    """
    from matplotlib.image import imread

    from diffnr_lightning.callbacks.slice_images import log_picture

    picture = imread(path)[..., :3]  # (height, width, 3) in [0, 1]
    log_picture(logger, (255 * picture).round().astype("uint8"), step, "preview")


def log_table(
    logger: Logger, name: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """Log a table: as one where the logger takes tables, as text where it takes text, else as a Markdown file of it.

    Args:
        logger: of the run.
        name: of the table.
        heads: of its columns.
        rows: of cells, numbers or text; None for what is not known.
    """
    if hasattr(logger, "log_table"):
        # A column of such a table has one type.
        numeric = [
            all(isinstance(c, int | float | None) for c in column)
            for column in zip(*rows, strict=True)
        ]
        cells = [
            [
                cell if number or cell is None else str(cell)
                for cell, number in zip(row, numeric, strict=True)
            ]
            for row in rows
        ]
        with _kept_in(logger):
            logger.log_table(name, columns=list(heads), data=cells)
        return
    lines = [heads, ["---"] * len(heads), *rows]
    text = "\n".join(f"| {' | '.join(_shown(cell) for cell in line)} |" for line in lines) + "\n"
    if hasattr(getattr(logger, "experiment", None), "add_text"):
        logger.experiment.add_text(name, text, 0)
    elif logger.log_dir:
        write_text(Path(logger.log_dir) / f"{name}.md", text)


def log_weights(
    logger: Logger, weights: Path, card: Path, name: str, metadata: Mapping[str, Any]
) -> None:
    """Log trained weights with their model card, where the logger keeps artifacts; others are left alone.

    What is waiting to be sent lies in the folder of the logger until then.

    Args:
        logger: of the run.
        weights: file, or folder that has the card in it.
        card: Markdown.
        name: of the artifact; a later one of this name is its next version.
        metadata: JSON-able, such as scores.
    """
    from lightning.pytorch.loggers import WandbLogger

    # Clients of others, such as MLflow's, have a method of the same name that takes something else.
    if not isinstance(logger, WandbLogger):
        return
    keep = logger.experiment.log_artifact
    import wandb

    name, text = re.sub(r"[^\w.-]+", "-", name), card.read_text(encoding="utf-8")
    artifact = wandb.Artifact(name, "model", description=text, metadata=dict(metadata))
    with _kept_in(logger):
        if weights.is_dir():
            artifact.add_dir(str(weights))
        else:
            artifact.add_file(str(weights))
            artifact.add_file(str(card))
        keep(artifact)


def _kept_in(logger: Logger) -> AbstractContextManager[None]:
    """Let what is to be sent later wait in the folder of the logger, not in the user's own folders."""
    folder = Path(logger.save_dir or ".").absolute() / "wandb"
    return environment_defaults({"WANDB_DATA_DIR": str(folder)})


def _finish(logger: Logger, status: str) -> None:
    logger.finalize(status)
    # Lightning leaves the end of a run to the service's own object where there is one.
    end = getattr(getattr(logger, "experiment", None), "finish", None)
    if end is not None:
        end(exit_code=int(status != "success"))


@contextmanager
def _labelled(logger: Logger, folder: Path, job: str, tags: Sequence[str]) -> Iterator[None]:
    """Tell a logger of Weights & Biases, before it begins, what its config leaves open, for this run alone."""
    # It has no other way to be told once it is built, and the package reads the environment once a process.
    options = getattr(logger, "_wandb_init", None)
    if options is None:
        yield
        return
    _leave_ended_run(logger)
    config = dict(options)
    said = {
        name: os.environ.get(f"WANDB_{name}")
        for name in ("RUN_ID", "RUN_GROUP", "JOB_TYPE", "TAGS")
    }
    found = {
        # Its own process, which writes, may have been started from another folder.
        "dir": str(Path(options.get("dir") or ".").absolute()),
        "id": options.get("id") or said["RUN_ID"] or _identity(folder),
        "group": options.get("group") or said["RUN_GROUP"],
        "job_type": options.get("job_type") or said["JOB_TYPE"] or job,
        "tags": options.get("tags")
        or (said["TAGS"].split(",") if said["TAGS"] else _as_tags(tags)),
    }
    options.update(found)
    try:
        yield
    finally:
        options.clear()
        options.update(config)


def _leave_ended_run(logger: Logger) -> None:
    """Let a logger of Weights & Biases that has served a run before begin another one."""
    if (served := getattr(logger, "_experiment", None)) is None:
        return
    import wandb

    if served is not wandb.run:
        logger._experiment = None


def _identity(folder: Path) -> str:
    """Return the id that the folder keeps, else a new one, which the first of several processes writes.

    Raises:
        ValueError: the folder's file of it is damaged.
    """
    from lightning.pytorch.utilities import rank_zero_only

    path = folder / IDENTITY
    if path.is_file():
        try:
            return str(json.loads(path.read_text(encoding="utf-8"))["id"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path} is damaged; remove it, and the run goes on under a new id at its tracking service."
            ) from error
    identity = secrets.token_hex(4)
    if rank_zero_only.rank == 0:
        write_json(path, {"id": identity})
    return identity


def _as_tags(tags: Sequence[str]) -> list[str]:
    """Return tags as Weights & Biases takes them: of 1 to 64 characters, none twice."""
    plain = (" ".join(tag.split())[:LONGEST_TAG].strip() for tag in tags)
    return [tag for tag in dict.fromkeys(plain) if tag]


def _shown(cell: Any) -> str:
    if isinstance(cell, float):
        return f"{cell:.6g}"
    return "–" if cell is None else str(cell)
