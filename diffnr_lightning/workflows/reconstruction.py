"""Reconstruct a case into a run folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any, Literal

from diffnr_lightning.lazy import deferred
from diffnr_lightning.workflows.device import use_device
from diffnr_lightning.workflows.evidence import evidence
from diffnr_lightning.workflows.run_folder import RunFolder
from diffnr_lightning.workflows.run_logger import log_preview, log_scores, logged_run
from diffnr_lightning.workflows.signature import exists, folder_to_be
from diffnr_lightning.workflows.weights_record import weights_record

Case = deferred("diffnr_lightning.data.cases.Case")
Logger = deferred("lightning.pytorch.loggers.logger.Logger")
Method = deferred("diffnr_lightning.workflows.problem.Method")
Sampler = deferred("diffnr_lightning.workflows.sampler.Sampler")
Scene = deferred("diffnr_lightning.workflows.scene.Scene")
Tensor = deferred("torch.Tensor")

logger = logging.getLogger("diffnr")


def reconstruct(
    case: Annotated[Path, exists("case")],
    out: Annotated[Path, folder_to_be("run")],
    method: Method,
    name: str | None = None,
    variant: str | None = None,
    seed: int | None = None,
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

    A finished run is left alone; an interrupted one goes on to the same volume.

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
            in the folder.
    """
    from diffnr_lightning.data import load_case
    from diffnr_lightning.workflows.normalisation import (
        intensity_scale,
        measured_problem,
        photons_of,
        reaches_out,
        with_surroundings,
        working_grid,
    )
    from diffnr_lightning.workflows.progress import progress_bar

    if checkpoint_every < 1:
        raise ValueError(
            f"checkpoint_every is {checkpoint_every}; at least one batch between two checkpoints "
            "is expected."
        )
    place = use_device(device)
    loaded = load_case(case)
    grid, inner = working_grid(loaded, pad)
    subtract = surroundings == "auto" and method.fits and not pad
    if place.type == "cuda":
        from diffnr_lightning.workflows.memory import refuse_what_cannot_fit

        given = {"weighted": weights == "auto", "surrounded": subtract and reaches_out(loaded)}
        refuse_what_cannot_fit(method, grid, loaded.scan, place, **given)
    run = RunFolder(
        out,
        resolved or {"case": str(case), "method": type(method).__name__, "seed": seed, "pad": pad},
        {"case": loaded.fingerprint()},
    )
    if not run.finished:
        run.facts["weights"] = weights_record(method.learned)
    run.open()
    if run.finished:
        logger.info("%s is finished already", out)
        return out
    label = " + ".join(filter(None, (name or method.name, variant)))
    tags = [label, f"{len(loaded.scan)} views", loaded.name]
    told = {**run.settings, "environment": run.environment}
    with (
        run.claim(),
        logged_run(curves, told, run.path, "reconstruct", tags),
        progress_bar(f"{loaded.name}: {label}") as progress,
    ):
        scale = intensity_scale(loaded)
        problem = measured_problem(
            loaded,
            grid,
            place,
            photons=photons_of(loaded, photons),
            weighted=weights == "auto",
            scale=scale,
            seed=seed,
            progress=progress,
        )
        problem = with_surroundings(problem, loaded.name, subtract)
        if isinstance(method, Scene):
            # Lightning is imported only where something is trained.
            from diffnr_lightning.callbacks import Convergence
            from diffnr_lightning.callbacks.run_record import RunRecord
            from diffnr_lightning.priors import stored_features

            convergence = Convergence(loaded.volume, inner)
            record = RunRecord(run.checkpoint, checkpoint_every, run.use, progress)
            problem = problem._replace(
                checkpoint=run.resume_from(),
                callbacks=(convergence, record),
                curves=curves,
                features=stored_features(case),
            )
        kept = None
        if isinstance(method, Sampler):
            from diffnr_lightning.workflows.sampler_record import SamplerRecord

            def show(volume: Tensor) -> None:
                """Draw an estimate (Z, Y, X) while the sampler runs."""
                _draw(run, loaded, volume[inner].cpu(), label)
                if curves is not None:
                    log_preview(curves, run.path / "preview.png", kept.state["done"])

            kept = SamplerRecord(run, progress, show)
            problem = problem._replace(progress=kept, state=kept.state)
        volume = method.reconstruct(problem.without_surroundings())
        # What a run says of its volume is not what the volume costs.
        cost = run.use.as_metrics()
        metrics: dict[str, Any] = {"method": label, **method.findings, "pad": pad, **cost}
        metrics |= evidence(method, volume, problem, loaded, scale, inner, run.path)
        volume = volume.cpu()
        if isinstance(method, Scene):
            metrics |= {"iterations": method.iterations, "history": convergence.history}
        metrics = _write_result(run, loaded, volume[inner].contiguous(), scale, case, metrics)
        if curves is not None:
            steps = metrics.get("iterations") or (kept.state.get("done", 0) if kept else 0)
            log_scores(curves, metrics, steps, told)
            log_preview(curves, run.path / "preview.png", steps)
        run.write_json("metrics.json", metrics)
        if kept is not None:
            kept.finish()
    return out


def _noise_of(case: Case) -> dict[str, Any] | None:
    """Return the settings of simulated noise, that the scan is a measured one, or None."""
    if case.provenance.get("kind") == "measured":
        return {"mode": "measured"}
    return case.provenance.get("simulation", {}).get("recipe", {}).get("noise")


def _draw(run: RunFolder, case: Case, volume: Tensor, label: str) -> None:
    """Write the preview of a volume (Z, Y, X), beside the true one where it is known."""
    from diffnr_lightning.files import replacing
    from diffnr_lightning.reports import preview

    truth = None if case.volume is None else case.volume.numpy()
    with replacing(run.path / "preview.png") as part:
        preview(volume.numpy(), truth, part, case.grid.voxel_mm, label)


def _write_result(
    run: RunFolder,
    case: Case,
    volume: Tensor,
    scale: float,
    folder: Path,
    metrics: dict[str, Any],
) -> dict[str, Any]:
    """Write volume and preview, and return the metrics, which are written last."""
    from diffnr_lightning.data import save_volume
    from diffnr_lightning.data.datasets import known_volume
    from diffnr_lightning.metrics import evaluate_volume

    known = known_volume(case.source)
    metrics = {
        "case": case.name,
        "kind": known.kind if known else None,
        "case_folder": str(folder.resolve()),
        **metrics,
        "views": len(case.scan),
        "noise": _noise_of(case),
        "size": list(case.grid.shape),
        "voxel_mm": list(case.grid.voxel_mm),
        "window_hu": case.window_hu,
        "intensity_scale": scale,
        "normalised_by": case.provenance.get("normalised_by", 1.0),
    }
    if case.volume is not None:
        metrics["protocols"] = evaluate_volume(volume.numpy(), case.volume.numpy())
    _draw(run, case, volume, metrics["method"])
    save_volume(
        run.path / "volume.nii.gz",
        (volume if case.window_hu else volume * scale).numpy(),
        case.grid,
        case.window_hu,
        case.frame_origin_mm,
        case.frame_direction,
    )
    score = metrics.get("protocols", {}).get("r2")
    text = f", PSNR {score['psnr']:.2f} dB, SSIM {score['ssim']:.3f}" if score else ""
    logger.info("%s: %s in %.0f s%s", case.name, metrics["method"], metrics["seconds"], text)
    return metrics
