"""Folders of denoisers: pipelines as diffusers writes them, with what ours have beyond that in a file of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from diffnr_lightning.files import replacing_folder, write_bytes, write_json
from diffnr_lightning.priors.denoisers.noise_schedule import EXPLODING
from diffnr_lightning.priors.denoisers.patch_denoiser import PatchDenoiser
from diffnr_lightning.priors.denoisers.unet_denoiser import CompactDenoiser, UNetDenoiser

FORMAT = "diffnr denoiser 1"
EXTRAS = "denoiser.json"
PATCHES = "PatchDenoiser"
SCHEDULER = Path("scheduler") / "scheduler_config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
BUNDLED = Path(__file__).parents[2] / "assets" / "denoisers"
# Others' pipelines do not say with which of its class labels a network of several slices was trained.
_OF_OTHERS = {"alone": False}
# Parts of pipelines whose U-Net does not see images.
LATENT = ("vqvae", "vae")


def refuse_unkept(denoiser: nn.Module) -> None:
    """Refuse a denoiser that would not come back from a folder as it is.

    Raises:
        ValueError: a class of one's own, whose own methods and layers a folder does not hold.
    """
    kind = type(denoiser)
    if kind not in (CompactDenoiser, PatchDenoiser, UNetDenoiser):
        raise ValueError(
            f"a denoiser of class {kind.__module__}.{kind.__qualname__} cannot be kept in a folder, which holds "
            "networks of the package alone; a CompactDenoiser, a UNetDenoiser around a UNet2DModel of your own or a "
            "PatchDenoiser is expected."
        )


def save_denoiser(
    folder: str | Path,
    denoiser: UNetDenoiser | PatchDenoiser,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Write a denoiser so that `load_denoiser` reads it; weights are float16.

    That of slices is a pipeline that diffusers' `DDPMPipeline` reads too, if it neither folds images nor is told
    coordinates, and the variance of its schedule does not explode: `ScoreSdeVePipeline` tells networks deviations in
    the place of steps, and takes scores in the place of noise.

    Args:
        folder: it appears whole or not at all, in the place of an older one.
        denoiser: the network.
        metadata: anything JSON can hold: iterations, data, scores.

    Raises:
        ValueError: a denoiser of another class, weights that are inf or NaN in float16, or a folder that cannot be
            written.
    """
    refuse_unkept(denoiser)
    of_slices = isinstance(denoiser, UNetDenoiser)
    state = {
        name: tensor.detach().to("cpu", torch.float16).contiguous()
        for name, tensor in (denoiser.unet if of_slices else denoiser).state_dict().items()
    }
    broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ValueError(
            f"weight {broken[0]} of the denoiser is not finite in float16; do not export a run that diverged: lower "
            "its learning rate."
        )
    extras = {
        "format": FORMAT,
        "network": "UNetDenoiser" if of_slices else PATCHES,
        "architecture": denoiser.architecture,
        "metadata": metadata or {},
    }
    with replacing_folder(Path(folder)) as part:
        write_json(part / EXTRAS, extras)
        if of_slices:
            _write_pipeline(part, denoiser, state)
        else:
            write_bytes(part / WEIGHTS, save(state, {"format": "pt"}))


def _write_pipeline(folder: Path, denoiser: UNetDenoiser, state: dict[str, Tensor]) -> None:
    from diffusers import DDPMScheduler, ScoreSdeVeScheduler, __version__

    explodes = denoiser.scheduler.get("_class_name") == EXPLODING
    scheduler = ScoreSdeVeScheduler if explodes else DDPMScheduler
    denoiser.unet.save_config(folder / "unet")
    write_bytes(folder / "unet" / WEIGHTS, save(state, {"format": "pt"}))
    scheduler.from_config(denoiser.scheduler).save_pretrained(folder / "scheduler")
    if explodes:
        return
    index = {
        "_class_name": "DDPMPipeline",
        "_diffusers_version": __version__,
        "scheduler": ["diffusers", scheduler.__name__],
        "unet": ["diffusers", "UNet2DModel"],
    }
    write_json(folder / "model_index.json", index)


def bundled_denoisers() -> list[str]:
    """Return the names of the denoisers that come with the package."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{EXTRAS}"))


def denoiser_folder(given: str | Path) -> Path:
    """Return the folder of a denoiser.

    Args:
        given: name of one that comes with the package, or a folder; a name goes before a folder of that name.

    Raises:
        FileNotFoundError: neither of them.
    """
    known, folder = bundled_denoisers(), Path(given)
    if str(given) in known:
        return BUNDLED / folder
    if folder.is_dir():
        return folder
    names = f"one of {', '.join(known)}" if known else "which has none"
    raise FileNotFoundError(
        f"{given} is no folder and no denoiser of the package ({names}); a name of these is expected, or the folder of "
        "a denoiser as `diffnr train-denoiser` writes it or diffusers does."
    )


def load_denoiser(folder: str | Path) -> UNetDenoiser | PatchDenoiser:
    """Build the denoiser of a folder and load its weights, ready to predict.

    Args:
        folder: written by `save_denoiser`, or a pipeline of diffusers with `unet/` and `scheduler/` in it, such as
            those of DM4CT, whose images are taken to lie in [-1, 1]; or the name of one of `bundled_denoisers`.
            Networks of several channels in others' pipelines are not asked for single slices.

    Raises:
        FileNotFoundError: no such folder, or a file is missing in it.
        ValueError: a damaged folder, a latent or text-conditioned pipeline, one of others whose variance explodes,
            pickled weights, or weights that do not fit.
    """
    folder = denoiser_folder(folder)
    ours = (folder / EXTRAS).is_file()
    extras = _read_json(folder / EXTRAS) if ours else {}
    build = _patches if extras.get("network") == PATCHES else _pipeline
    try:
        denoiser = build(folder, extras.get("architecture", {}) if ours else _OF_OTHERS)
        if not ours and denoiser.scheduler.get("_class_name") == EXPLODING:
            raise ValueError(
                "its variance explodes, and networks of such pipelines are told deviations and return scores; a "
                "DDPM pipeline is expected"
            )
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"{folder} holds no usable denoiser ({reason}); train, convert or copy it anew."
        ) from error
    return denoiser.eval().requires_grad_(False)


def _patches(folder: Path, architecture: dict[str, Any]) -> PatchDenoiser:
    denoiser = PatchDenoiser(**architecture)
    denoiser.load_state_dict(_weights(folder, denoiser))
    return denoiser


def _pipeline(folder: Path, options: dict[str, Any]) -> UNetDenoiser:
    for name in LATENT:
        if (folder / name).is_dir():
            raise ValueError(
                f"it is a latent prior ({name}/), whose network sees no images; a pixel prior is expected"
            )
    for name in (Path("unet") / "config.json", SCHEDULER):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} has no {name}; a folder with unet/ and scheduler/ is expected, as diffusers writes it."
            )
    scheduler = _read_json(folder / SCHEDULER)
    config = _read_json(folder / "unet" / "config.json")
    if config.get("_class_name") != "UNet2DModel":
        raise ValueError(
            f"its unet/ is a {config.get('_class_name')}; a UNet2DModel is expected, which needs no text"
        )
    from diffusers import UNet2DModel

    with torch.device("meta"):
        outline = UNet2DModel.from_config(config)
    state = _weights(folder / "unet", outline)
    unet = UNet2DModel.from_config(config)
    unet.load_state_dict(state)
    return UNetDenoiser(unet, scheduler, **options)


def read_metadata(folder: str | Path) -> dict[str, Any]:
    """Return what `save_denoiser` was told of a denoiser; empty for a pipeline of others.

    Raises:
        ValueError: a damaged file.
    """
    path = Path(folder) / EXTRAS
    return _read_json(path).get("metadata", {}) if path.is_file() else {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); copy the folder anew.") from error
    return content


def _weights(folder: Path, outline: nn.Module) -> dict[str, Tensor]:
    """Read the weights of a network, float32, whose names and shapes `outline` has."""
    found = sorted(folder.glob("*.safetensors"))
    path = folder / WEIGHTS if folder / WEIGHTS in found or not found else found[0]
    if not found:
        pickled = sorted(folder.glob("*.bin"))
        more = f"{pickled[0].name} is a pickle, which may run code, and " if pickled else ""
        raise ValueError(f"{more}{path.name} is missing in {folder.name}/")
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name).float() for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path.name} is damaged: {error}") from error
    shapes = {name: tensor.shape for name, tensor in state.items()}
    if shapes != {name: tensor.shape for name, tensor in outline.state_dict().items()}:
        raise ValueError("its weights do not have the names and shapes of its config")
    if not all(torch.isfinite(tensor).all() for tensor in state.values()):
        raise ValueError("it holds weights that are not finite")
    return state
