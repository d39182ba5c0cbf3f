"""Read run folders: the numbers of every finished run, its volume, and the truth of its case."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from diffnr_lightning.files import folders_below, stored_file
from diffnr_lightning.metrics import psnr
from diffnr_lightning.reports.case_folders import case_folder_of, case_metadata
from diffnr_lightning.reports.written_metrics import ANEW, refuse_strange

log = logging.getLogger("diffnr")

METRICS_FILE = "metrics.json"
CONFIG_FILE = "config.yaml"
VOLUME_FILE = "volume.nii.gz"
DOWNSTREAM_FILE = "downstream.json"

# PSNR up to which the rounding of files does not count, and by how much it may differ then.
FINEST_DB, SAME_DB = 80.0, 0.1


class ScanSetting(NamedTuple):
    """Tell scans apart whose results must not be averaged; None where it was not recorded.

    Attributes:
        views: projections that were reconstructed from.
        noise: in words, such as "tigre 10000±10": kind, photons a pixel, read-out noise in photons.
        size: voxels along the edges, such as "128" of a cube, else "64x128x128" (z, y, x).
        scan: what else tells the scans of a table apart, see `told_apart`; None as a rule.
    """

    views: int | None = None
    noise: str | None = None
    size: str | None = None
    scan: str | None = None


@dataclass(frozen=True)
class RunSummary:
    """Hold what a finished run says about itself.

    Attributes:
        folder: of the run.
        case: name of the scan.
        method: how it was reconstructed.
        protocols: protocol -> {"psnr": dB, "ssim": index}; empty where the truth is not known.
        projections: error of the held-out views; empty where there were none.
        chi_square: mean over views in the domain of counts, of "fitted" and "left_out" ones, and "resolved"; empty
            where no photons are known.
        prior: share of the volume's energy that a prior changed, and of that change what the projections do not see
            ("unseen"); empty where none took part.
        downstream: results of tasks on the volume by their names, such as "lungs"; empty where none was asked for.
        seconds: of work, see `ResourceUse.seconds`; None where not recorded.
        peak_memory_mb: peak resident memory, None where not recorded.
        evaluations: how often a denoiser was asked for the whole volume, None where none was.
        iterations: of the optimisation, None for a method without.
        case_folder: the case, None where it is not named or not there any more.
        history: series of numbers by name, among them "iteration", for the convergence chart.
        window_hu: HU of the values 0 and 1 if the volume is in HU.
        setting: views, noise and size of the scan.
        kind: of object, such as head or limb, where a split lists the volume; else None.
        normalised_by: what the truth of the case folder was divided by when it was read, 1 as a rule.
    """

    folder: Path
    case: str
    method: str
    protocols: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    projections: Mapping[str, float] = field(default_factory=dict)
    chi_square: Mapping[str, float] = field(default_factory=dict)
    prior: Mapping[str, float] = field(default_factory=dict)
    downstream: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seconds: float | None = None
    peak_memory_mb: float | None = None
    evaluations: float | None = None
    iterations: int | None = None
    case_folder: Path | None = None
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)
    window_hu: tuple[float, float] | None = None
    setting: ScanSetting = ScanSetting()
    kind: str | None = None
    normalised_by: float = 1.0


@dataclass(frozen=True, eq=False)
class ShownVolume:
    """Hold a volume in the unit in which it is shown.

    Attributes:
        values: (Z, Y, X) float32.
        voxel_mm: voxel edges (z, y, x).
        window: values that normalise to 0 and 1, None where there is no agreed window.
        unit: "HU" or "arbitrary".
    """

    values: NDArray[np.float32]
    voxel_mm: tuple[float, float, float]
    window: tuple[float, float] | None
    unit: str


def read_runs(folders: Sequence[str | Path]) -> list[RunSummary]:
    """Read all finished runs in some folders and below.

    A run that is not finished (a config without metrics) is left out, with a sentence in the log, and so is a
    training, such as that of a table's prior.

    Args:
        folders: run folders, or folders of run folders at any depth.

    Returns:
        One summary per run, in the order of the folders, below them by path; none twice.

    Raises:
        FileNotFoundError: a folder that does not exist.
        ValueError: no finished run at all, or a metrics file that is damaged or incomplete.
    """
    # One folder may be reached by several names.
    known: dict[Path, Path] = {}
    for folder in map(Path, folders):
        if folder.is_file():
            raise ValueError(f"run folder {folder} is a file; a folder of runs is expected.")
        if not folder.is_dir():
            raise FileNotFoundError(f"run folder {folder} does not exist; check the path.")
        below = sorted(folders_below(folder))
        for place in (path for path, files in below if METRICS_FILE in files):
            known.setdefault(place.resolve(), place)
        for config in (path / CONFIG_FILE for path, files in below if CONFIG_FILE in files):
            # Weights & Biases has files of this name in folders of its own.
            own = "wandb" in config.relative_to(folder).parts
            finished = own or (config.parent / METRICS_FILE).is_file()
            if not finished and _is_of_reconstruction(config):
                log.warning("run %s is not finished and is left out.", config.parent)
    found = list(known.values())
    for training in [path for path in found if _is_training(path)]:
        log.info("%s is a training and has no place in a table of reconstructions.", training)
        found.remove(training)
    if not found:
        raise ValueError(
            f"no finished run lies under {', '.join(map(str, folders)) or 'no folder'}; a folder "
            f"with {METRICS_FILE} is expected."
        )
    return [read_run(folder) for folder in found]


def _is_of_reconstruction(config: Path) -> bool:
    """Tell the settings of a reconstruction from those of a curation or training, which have no method."""
    text = config.read_text(encoding="utf-8", errors="replace")
    return re.search(r"^method:", text, re.MULTILINE) is not None


def _is_training(folder: Path) -> bool:
    """Tell a finished training by its metrics, which name what it held out; what is damaged is none."""
    try:
        content = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        return False
    return isinstance(content, dict) and "held_out" in content and "case" not in content


def read_run(folder: str | Path) -> RunSummary:
    """Read one finished run.

    Raises:
        FileNotFoundError: no metrics file.
        ValueError: a metrics file that is no JSON object, lacks the case or the method, or has entries that no run
            writes.
    """
    path = Path(folder) / METRICS_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist; the run is not finished.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON: {error}; {ANEW}.") from error
    if not isinstance(content, dict) or not {"case", "method"} <= content.keys():
        raise ValueError(
            f"{path} has no 'case' and 'method'; a metrics file of a finished run is expected."
        )
    refuse_strange(content, path)
    case_folder = case_folder_of(content, Path(folder))
    return RunSummary(
        folder=Path(folder),
        case=str(content["case"]),
        method=str(content["method"]),
        protocols=content.get("protocols") or {},
        projections=content.get("projections") or {},
        chi_square=(content.get("chi_square") or {}).get("mean") or {},
        prior=content.get("prior") or {},
        downstream=_downstream(Path(folder) / DOWNSTREAM_FILE),
        seconds=content.get("seconds"),
        peak_memory_mb=content.get("peak_memory_mb"),
        evaluations=content.get("evaluations"),
        iterations=content.get("iterations"),
        case_folder=case_folder,
        history=content.get("history") or {},
        window_hu=_window_hu(content, case_folder),
        setting=_setting(content, case_folder),
        kind=content.get("kind"),
        normalised_by=content.get("normalised_by") or 1.0,
    )


def having_volumes(runs: Sequence[RunSummary]) -> list[RunSummary]:
    """Return the runs that have their volumes; those whose volume was removed are named in the log."""
    for run in runs:
        if not (run.folder / VOLUME_FILE).is_file():
            log.warning(
                "run %s has no %s and is left out of pictures; %s.", run.folder, VOLUME_FILE, ANEW
            )
    return [run for run in runs if (run.folder / VOLUME_FILE).is_file()]


def read_volume(run: RunSummary) -> ShownVolume:
    """Read the volume that a run made.

    Raises:
        FileNotFoundError: no volume file.
        ValueError: a file that cannot be read or is not three-dimensional.
    """
    path = run.folder / VOLUME_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; {ANEW}.")
    try:
        image = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        raise ValueError(f"{path} cannot be read as NIfTI; {ANEW}.") from error
    if image.GetDimension() != 3:
        raise ValueError(
            f"{path} has {image.GetDimension()} axes; a volume with three is expected."
        )
    z, y, x = image.GetSpacing()[::-1]
    values = SimpleITK.GetArrayFromImage(image).astype(np.float32)
    unit = "arbitrary" if run.window_hu is None else "HU"
    return ShownVolume(values, (z, y, x), run.window_hu, unit)


def read_truth(run: RunSummary, volume: ShownVolume) -> ShownVolume | None:
    """Read the true volume of a run's case, in the unit of the run's volume.

    Args:
        run: whose case folder is looked up.
        volume: of the run; gives voxel size and unit.

    Returns:
        The truth, or None where the case has none, lies elsewhere, or was replaced after the run.

    Raises:
        ValueError: a truth that is damaged.
    """
    if run.case_folder is None:
        return None
    meta = case_metadata(run.case_folder)
    # R2-Gaussian's reader looks for "vol"; its generator for real data writes "ct".
    name = meta.get("vol") or meta.get("ct")
    if name is None:
        return None
    path = stored_file(run.case_folder, str(name))
    try:
        turned = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"the true volume {path} cannot be read; write the case again.") from error
    if turned.ndim != 3:
        raise ValueError(
            f"the true volume {path} has the shape {turned.shape}; three axes (x, y, z) are expected."
        )
    # Case folders store (x, y, z).
    values = np.ascontiguousarray(turned.transpose(2, 1, 0), dtype=np.float32) / run.normalised_by
    if not _was_scored_by(run, volume, values):
        log.warning(
            "case %s holds another volume than run %s was scored by; it is shown without truth.",
            run.case_folder,
            run.folder,
        )
        return None
    if volume.window is not None:
        low, high = volume.window
        values = low + values * (high - low)
    return ShownVolume(values, volume.voxel_mm, volume.window, volume.unit)


def _was_scored_by(run: RunSummary, volume: ShownVolume, truth: NDArray[np.float32]) -> bool:
    """Whether a normalised truth gives the PSNR that the run recorded; a case may be written anew after its runs."""
    recorded = run.protocols.get("r2", {}).get("psnr")
    if recorded is None or recorded > FINEST_DB or truth.shape != volume.values.shape:
        return True
    low, high = volume.window or (0.0, 1.0)
    error = (volume.values - low) / (high - low) - truth
    found = psnr(float(np.mean(np.square(error), dtype=np.float64)), most=FINEST_DB)
    return abs(found - recorded) < SAME_DB


def of_one_volume(one: ShownVolume, other: ShownVolume) -> bool:
    """Whether two truths are of one volume, however finely each was normalised."""
    tolerance = 0.01 * float(np.ptp(one.values))
    return one.values.shape == other.values.shape and np.allclose(
        one.values, other.values, 0, tolerance
    )


def _downstream(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON: {error}; delete it.") from error
    if not isinstance(results, dict) or not all(isinstance(r, dict) for r in results.values()):
        raise ValueError(f"{path} holds no results of tasks; delete it.")
    return results


def _setting(content: Mapping[str, Any], case_folder: Path | None) -> ScanSetting:
    """Take the setting from the metrics; runs of earlier versions leave some of it to the case."""
    recorded = {key: content.get(key) for key in ("views", "noise", "size")}
    if None in recorded.values() and case_folder is not None:
        meta = case_metadata(case_folder)
        provenance = meta.get("provenance") or {}
        recipe = (provenance.get("simulation") or {}).get("recipe") or provenance
        stated = {
            "views": len(meta.get("proj_train") or ()) or None,
            "noise": recipe.get("noise"),
            "size": (meta.get("scanner") or {}).get("nVoxel", [])[::-1] or None,
        }
        recorded = {key: stated[key] if value is None else value for key, value in recorded.items()}
    noise, size = _noise_in_words(recorded["noise"]), _size_in_words(recorded["size"])
    return ScanSetting(recorded["views"], noise, size)


def _noise_in_words(noise: Mapping[str, Any] | None) -> str | None:
    if not noise:
        return None
    if "photons" not in noise or noise["mode"] == "none":
        return str(noise["mode"])
    return f"{noise['mode']} {noise['photons']:g}±{noise['electronic']:g}"


def _size_in_words(shape: Sequence[int] | None) -> str | None:
    if not shape:
        return None
    return str(shape[0]) if len(set(shape)) == 1 else "x".join(map(str, shape))


def _window_hu(content: Mapping[str, Any], case_folder: Path | None) -> tuple[float, float] | None:
    window = content.get("window_hu")
    if window is None and case_folder is not None:
        window = case_metadata(case_folder).get("window_hu")
    if window is None:
        return None
    low, high = (float(value) for value in window)
    return low, high
