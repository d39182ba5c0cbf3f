"""Reconstruct a case into a run folder."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from diffnr_lightning.lazy import deferred
from diffnr_lightning.workflows.command_line.repeated_warnings import each_warning_once
from diffnr_lightning.workflows.command_line.signature import at_least, exists, folder_to_be
from diffnr_lightning.workflows.machine.device import use_device
from diffnr_lightning.workflows.methods.problem import MethodRecord, Problem
from diffnr_lightning.workflows.runs.built import FORMAT, built
from diffnr_lightning.workflows.runs.evidence import evidence
from diffnr_lightning.workflows.runs.ongoing_run import OngoingRun
from diffnr_lightning.workflows.runs.run_folder import RunFolder
from diffnr_lightning.workflows.runs.run_logger import log_scores, logged_run
from diffnr_lightning.workflows.runs.weights_record import weights_record

Case = deferred("diffnr_lightning.data.cases.Case")
Device = deferred("torch.device")
Logger = deferred("lightning.pytorch.loggers.logger.Logger")
Method = deferred("diffnr_lightning.workflows.methods.problem.Method")
Tensor = deferred("torch.Tensor")
VolumeGrid = deferred("diffnr_lightning.geometry.grid.VolumeGrid")

logger = logging.getLogger("diffnr")


def reconstruct(
    case: Annotated[Path, exists("case")],
    out: Annotated[Path, folder_to_be("run")],
    method: Method,
    name: str | None = None,
    variant: str | None = None,
    seed: Annotated[int | None, at_least(0, "seed")] = None,
    pad: float = 0.0,
    surroundings: Literal["auto", "ignore"] = "auto",
    weights: Literal["auto", "uniform"] = "auto",
    photons: float | None = None,
    device: str = "cpu",
    checkpoint_every: int = 500,
    curves: Logger | None = None,
    resolved: dict[str, Any] | None = None,
) -> Path:
    """Reconstruct the volume of a case.

    A finished run is left alone; an interrupted one goes on to the same volume. Called from Python with a method that
    is built of a lambda or of a function inside another one, it refuses a folder that holds a run: whether it is the
    same cannot be known.

    Args:
        case: case folder or NAF pickle, with or without the true volume.
        out: run folder.
        method: how, such as in configs/reconstruct/*.yaml.
        name: of the method in tables; null takes the method's own.
        variant: what is added to the name, as an overlay such as configs/diffnr/align.yaml does.
        seed: of everything random; null takes the case's.
        pad: share of each edge by which the grid is larger while it is reconstructed; what is kept is cut out of it.
            It gives an object that reaches beyond the detector room, of voxels as fine as the volume's.
        surroundings: of a grid that an object reaches out of. auto estimates them coarsely and takes them away from
            the projections, for methods that fit these, without a pad; ignore leaves them to the voxels at the edge.
        weights: of the rays; auto gives every ray the inverse of its variance where the case knows its photons or
            `photons` are given, uniform weighs all rays alike, as the textbook methods do.
        photons: without object, a pixel and view, that are assumed where the case does not know its own.
        device: where to compute: cpu, cuda or cuda:N.
        checkpoint_every: batches between two checkpoints of an optimisation; a sampler is kept once a minute.
        curves: Lightning logger, such as a WandbLogger, for settings, versions and commit, loss, PSNR and pictures
            while it runs, and the final scores with a picture; the run folder keeps them in any case.
        resolved: filled in by the command line.

    Returns:
        The run folder: volume.nii.gz, metrics.json, preview.png, config.yaml, environment.json; and prior_share.nii.gz
        and .png where a prior took part: what the projections do not see of its changes, as an absolute difference.

    Raises:
        ValueError: a case or checkpoint that does not fit, a run that a GPU has no room for, or one of other settings
            in the folder, or a method that returns no volume of finite values.
    """
    from diffnr_lightning.data import load_case
    from diffnr_lightning.workflows.command_line.progress import progress_bar
    from diffnr_lightning.workflows.methods.posed_problem import (
        problem_of,
        reaches_out,
        working_grid,
    )

    if checkpoint_every < 1:
        raise ValueError(
            f"checkpoint_every is {checkpoint_every}; at least one batch between two checkpoints "
            "is expected."
        )
    place = use_device(device)
    loaded = load_case(case)
    grid, inner = working_grid(loaded, pad)
    subtract = surroundings == "auto" and method.fits and not pad
    weighted = weights == "auto"
    if place.type == "cuda":
        from diffnr_lightning.workflows.machine.memory_refusal import refuse_what_cannot_fit

        given = {"weighted": weighted, "surrounded": subtract and reaches_out(loaded)}
        refuse_what_cannot_fit(method, grid, loaded.scan, place, **given)
    plain = {"case": str(case), "method": type(method).__name__, "seed": seed, "pad": pad}
    plain["device"] = device
    options = {"name": name, "variant": variant, "weights": weights, "photons": photons}
    options |= {"surroundings": surroundings, "method": method.built}
    plain["built"] = {**FORMAT, **options}
    plain = built(plain)
    folder = RunFolder(out, resolved or plain, {"case": loaded.fingerprint()})
    if not folder.finished:
        folder.facts["weights"] = weights_record(method.learned)
    if not folder.begin():
        return out
    label = " + ".join(filter(None, (name or method.name, variant)))
    tags = [label, f"{len(loaded.scan)} views", loaded.name]
    with (
        folder.claim(),
        each_warning_once(),
        logged_run(curves, folder.described, out, "reconstruct", tags, alone=True),
        progress_bar(f"{loaded.name}: {label}") as progress,
    ):
        run = OngoingRun(folder, loaded, case, label, inner, progress, curves, checkpoint_every)
        problem, scale = problem_of(
            loaded,
            grid,
            place,
            photons=photons,
            weighted=weighted,
            subtract=subtract,
            seed=seed,
            progress=progress,
        )
        record = method.record(run)
        problem = record.watched(problem)
        volume = method.reconstruct(problem.without_surroundings())
        _refuse_no_volume(volume, grid, label)
        _conclude(run, method, record, volume, problem, scale, pad)
    return out


def _refuse_no_volume(volume: Any, grid: VolumeGrid, label: str) -> None:
    """Refuse what a method, which may be of one's own, cannot mean as its result.

    Raises:
        ValueError: no tensor, another shape than the grid's, or values that are not finite.
    """
    import torch

    if not isinstance(volume, torch.Tensor) or volume.shape != grid.shape:
        found = f"{type(volume).__name__} of shape {tuple(getattr(volume, 'shape', ()))}"
        raise ValueError(f"{label} returned a {found}; a Tensor of shape {grid.shape} is expected.")
    if not bool(torch.isfinite(volume).all()):
        raise ValueError(
            f"{label} returned a volume with NaN or infinite values, as of an optimisation that diverges; finite ones "
            "are expected: lower its rates or steps."
        )


def _conclude(
    run: OngoingRun,
    method: Method,
    record: MethodRecord,
    volume: Tensor,
    problem: Problem,
    scale: float,
    pad: float,
) -> None:
    """Write volume and evidence and tell the logger; the metrics, by which a run is finished, come last.

    The volume comes first: evidence takes memory of its own, and may find none.

    Args:
        run: that comes to its end.
        method: that it was done with.
        record: of the method.
        volume: (Z, Y, X) on the whole grid.
        problem: that it is the answer to.
        scale: what the projections were divided by.
        pad: share by which the grid was larger than the case's.
    """
    # What a run says of its volume is not what the volume costs.
    cost = run.folder.use.as_metrics()
    metrics = {"method": run.label, **method.findings, "pad": pad, **cost}
    kept = volume.cpu()[run.inner].contiguous()
    _write_volume(run, kept, scale)
    metrics |= evidence(method, volume, problem, run.case, scale, run.inner, run.folder.path)
    metrics |= record.metrics()
    metrics = _all_metrics(run, kept, scale, metrics)
    if run.curves is not None:
        log_scores(run.curves, metrics, record.steps, run.folder.described)
        run.log_preview(record.steps)
    run.folder.write_json("metrics.json", metrics)
    record.finish()


def _noise_of(case: Case) -> dict[str, Any] | None:
    """Return the settings of simulated noise, that the scan is a measured one, or None."""
    from diffnr_lightning.data.case_folder.metadata import simulated_noise

    if case.provenance.get("kind") == "measured":
        return {"mode": "measured"}
    return simulated_noise(case.provenance) or None


def _way(run: Path, case: Path) -> str | None:
    """Return the way from a run to its case, by which the two are found again when they are moved together."""
    try:
        return Path(os.path.relpath(case.resolve(), run.resolve())).as_posix()
    except ValueError:  # two drives of Windows
        return None


def _write_volume(run: OngoingRun, volume: Tensor, scale: float) -> None:
    """Write the volume (Z, Y, X) of the kept grid, and its preview."""
    from diffnr_lightning.data import save_volume

    case = run.case
    run.draw(volume)
    save_volume(
        run.folder.path / "volume.nii.gz",
        (volume if case.window_hu else volume * scale).numpy(),
        case.grid,
        case.window_hu,
        case.frame_origin_mm,
        case.frame_direction,
    )


def _all_metrics(
    run: OngoingRun, volume: Tensor, scale: float, metrics: dict[str, Any]
) -> dict[str, Any]:
    """Return the metrics with those of the case and, where its truth is known, the scores of the volume (Z, Y, X)."""
    from diffnr_lightning.data.cases import DIVIDED
    from diffnr_lightning.data.datasets import known_volume
    from diffnr_lightning.metrics import evaluate_volume, field_of_view

    case = run.case
    known = known_volume(case.source)
    metrics = {
        "case": case.name,
        "kind": known.kind if known else None,
        "case_folder": str(run.case_path.resolve()),
        "case_from_run": _way(run.folder.path, run.case_path),
        **metrics,
        "views": len(case.scan),
        "noise": _noise_of(case),
        "size": list(case.grid.shape),
        "voxel_mm": list(case.grid.voxel_mm),
        "window_hu": case.window_hu,
        "intensity_scale": scale,
        "normalised_by": case.provenance.get(DIVIDED, 1.0),
    }
    if case.volume is not None:
        seen = field_of_view(case.grid.shape, case.grid.voxel_mm)
        metrics["protocols"] = evaluate_volume(volume.numpy(), case.volume.numpy(), seen)
    score = metrics.get("protocols", {}).get("r2")
    text = f", PSNR {score['psnr']:.2f} dB, SSIM {score['ssim']:.3f}" if score else ""
    logger.info("%s: %s in %.0f s%s", case.name, run.label, metrics["seconds"], text)
    return metrics
