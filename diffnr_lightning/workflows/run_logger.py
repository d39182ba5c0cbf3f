"""What a run hands to a Lightning logger besides its curves: settings, scores, a picture, the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger


@contextmanager
def logged_run(logger: Logger | None, settings: Mapping[str, Any]) -> Iterator[None]:
    """Begin a logger with the settings of a run and finish it when the run ends, however it ends.

    A logger that keeps one run a process, as that of Weights & Biases does, would put the next
    reconstruction of a sweep into the same run otherwise.

    Args:
        logger: any logger of Lightning; None logs nothing.
        settings: of the run, nested as YAML holds them.
    """
    if logger is None:
        yield
        return
    logger.log_hyperparams(dict(settings))
    try:
        yield
    except BaseException:
        _finish(logger, "failed")
        raise
    _finish(logger, "success")


def log_scores(logger: Logger, metrics: Mapping[str, Any], step: int) -> None:
    """Log the final scores of a reconstruction; services show the last value of each as its summary.

    Args:
        logger: of the run.
        metrics: as in ``metrics.json``: `protocols` and `projections` of numbers, and costs.
        step: iterations done.
    """
    scores = {
        f"{protocol}/{name}": value
        for protocol, numbers in metrics.get("protocols", {}).items()
        for name, value in numbers.items()
    }
    scores |= {f"views/{name}": value for name, value in metrics.get("projections", {}).items()}
    scores |= {key: metrics[key] for key in ("seconds", "peak_memory_mb") if key in metrics}
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


def _finish(logger: Logger, status: str) -> None:
    logger.finalize(status)
    # Lightning leaves the end of a run to the service's own object where there is one.
    end = getattr(getattr(logger, "experiment", None), "finish", None)
    if end is not None:
        end(exit_code=int(status != "success"))
