"""Folders of denoisers: pipelines as diffusers writes them, with what ours have beyond that in a file of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffnr_lightning.files import replacing_folder
from diffnr_lightning.priors.unet_denoiser import UNetDenoiser

FORMAT = "diffnr denoiser 1"
EXTRAS = "denoiser.json"
SCHEDULER = Path("scheduler") / "scheduler_config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
# Parts of pipelines whose U-Net does not see images.
LATENT = ("vqvae", "vae")


def save_denoiser(
    folder: str | Path, denoiser: UNetDenoiser, metadata: dict[str, Any] | None = None
) -> None:
    """Write a denoiser so that `load_denoiser` and diffusers' `DDPMPipeline` read it; weights are float16.

    Args:
        folder: of the pipeline; it appears whole or not at all, in the place of an older one.
        denoiser: the network.
        metadata: anything JSON can hold: iterations, data, scores.

    Raises:
        ValueError: weights that are inf or NaN in float16, or a folder that cannot be written.
    """
    from diffusers import DDPMScheduler, __version__

    state = {
        name: tensor.detach().to("cpu", torch.float16).contiguous()
        for name, tensor in denoiser.unet.state_dict().items()
    }
    broken = [n for n, tensor in state.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ValueError(
            f"weight {broken[0]} of the denoiser is not finite in float16; do not export a run that diverged: lower "
            "its learning rate."
        )
    extras = {
        "format": FORMAT,
        "network": "UNetDenoiser",
        "architecture": denoiser.architecture,
        "metadata": metadata or {},
    }
    index = {
        "_class_name": "DDPMPipeline",
        "_diffusers_version": __version__,
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    with replacing_folder(Path(folder)) as part:
        denoiser.unet.save_config(part / "unet")
        save_file(state, part / "unet" / WEIGHTS, {"format": "pt"})
        DDPMScheduler.from_config(denoiser.scheduler).save_pretrained(part / "scheduler")
        for name, content in ((EXTRAS, extras), ("model_index.json", index)):
            (part / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_denoiser(folder: str | Path) -> UNetDenoiser:
    """Build the denoiser of a folder and load its weights, ready to predict.

    Args:
        folder: written by `save_denoiser`, or a pipeline of diffusers with `unet/` and `scheduler/` in it, such as
            those of DM4CT, whose images are taken to lie in [-1, 1].

    Raises:
        FileNotFoundError: no such folder, or a file is missing in it.
        ValueError: a damaged folder, a latent or text-conditioned pipeline, pickled weights, or weights that do not
            fit.
    """
    folder = Path(folder)
    _refuse_others(folder)
    extras = _read_json(folder / EXTRAS) if (folder / EXTRAS).is_file() else {}
    scheduler = _read_json(folder / SCHEDULER)
    config = _read_json(folder / "unet" / "config.json")
    name = config.get("_class_name")
    if name != "UNet2DModel":
        raise ValueError(
            f"{folder}/unet is a {name}; a UNet2DModel is expected, which needs no text."
        )
    from diffusers import UNet2DModel

    options = extras.get("architecture", {})
    try:
        with torch.device("meta"):
            unet = UNet2DModel.from_config(config)
        state = _weights(folder / "unet")
        expected = {n: t.shape for n, t in unet.state_dict().items()}
        if expected != {n: t.shape for n, t in state.items()}:
            raise ValueError("its weights do not have the names and shapes of its config")
        unet = UNet2DModel.from_config(config)
        unet.load_state_dict(state)
        denoiser = UNetDenoiser(unet, scheduler, **options)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"{folder} holds no usable denoiser ({reason}); train, convert or copy it anew."
        ) from error
    return denoiser.eval().requires_grad_(False)


def read_metadata(folder: str | Path) -> dict[str, Any]:
    """Return what `save_denoiser` was told of a denoiser; empty for a pipeline of others.

    Raises:
        ValueError: a damaged file.
    """
    path = Path(folder) / EXTRAS
    return _read_json(path).get("metadata", {}) if path.is_file() else {}


def _refuse_others(folder: Path) -> None:
    """Say what a folder lacks that a denoiser has, or has that none does."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} does not exist or is a file; the folder of a denoiser is expected, as `diffnr train-denoiser` "
            "writes it or diffusers does."
        )
    for name in LATENT:
        if (folder / name).is_dir():
            raise ValueError(
                f"{folder} holds a latent prior ({name}/), whose network sees no images; a pixel prior is expected."
            )
    for name in (Path("unet") / "config.json", SCHEDULER):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} has no {name}; a folder with unet/ and scheduler/ is expected, as diffusers writes it."
            )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); copy the folder anew.") from error
    return content


def _weights(folder: Path) -> dict[str, Tensor]:
    """Read the weights of a U-Net, float32."""
    found = sorted(folder.glob("*.safetensors"))
    path = folder / WEIGHTS if folder / WEIGHTS in found or not found else found[0]
    if not found:
        pickled = sorted(folder.glob("*.bin"))
        more = f"{pickled[0].name} is a pickle, which may run code, and " if pickled else ""
        raise ValueError(f"{more}{path.name} is missing in unet/")
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name).float() for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path.name} is damaged: {error}") from error
    if not all(torch.isfinite(tensor).all() for tensor in state.values()):
        raise ValueError("it holds weights that are not finite")
    return state
