"""The large SliceFixer from the scan to the reconstruction, on stand-ins of its base models."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from safetensors.torch import save_file

from diffnr_lightning import cli
from diffnr_lightning.data.slice_pairs import open_pairs
from diffnr_lightning.priors import (
    BiplanarFeatures,
    export_turbo_checkpoint,
    load_prior,
    read_header,
)
from tests.tiny_clip import tiny_heads, tiny_vgg, write_tiny_clip
from tests.tiny_models import write_tiny_rad_dino, write_tiny_sd_turbo

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TINY = CONFIGS / "tiny"
ITERATIONS = 20
pytestmark = pytest.mark.filterwarnings("ignore")


def diffnr(*arguments):
    return cli.main([str(argument) for argument in arguments])


def voxels(run):
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(run / "volume.nii.gz")))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_tiny_sd_turbo(folder / "sd-turbo")
    write_tiny_rad_dino(folder / "rad-dino")
    write_tiny_clip(folder / "clip")
    save_file(tiny_vgg(), folder / "vgg.safetensors")
    torch.save(tiny_heads(), folder / "heads.pth")
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def case(work):
    assert diffnr("simulate", "--config", TINY / "simulate.yaml", "--out", work / "case") == 0
    return work / "case"


@pytest.fixture(scope="module")
def pairs(work):
    out = work / "pairs"
    options = ["--config", TINY / "curate.yaml", "--biplanar_size", 28]
    assert diffnr("curate", *options, "--out", out) == 0
    return out


def base_options(models):
    prior, module = "--prior.init_args", "--module.init_args"
    return [
        f"{prior}.base", models / "sd-turbo",
        f"{prior}.encoder", models / "rad-dino",
        f"{prior}.size", 32,
        f"{module}.lpips.init_args.weights", models / "vgg.safetensors",
        f"{module}.lpips.init_args.heads", models / "heads.pth",
        f"{module}.similarity.init_args.model", models / "clip",
        f"{module}.discriminator.init_args.model", models / "clip",
    ]  # fmt: skip


def run_options(pairs):
    return [
        "--config", CONFIGS / "finetune" / "slicefixer_luna16.yaml",
        "--data.folders", f"[{pairs}]",
        "--data.held_out", "[phantom_11*]",
        "--data.crop", 32, "--data.batch_size", 2, "--data.workers", 0,
        "--iterations", ITERATIONS, "--validate_every", 10, "--checkpoint_every", 5,
        "--precision", "32-true", "--devices", 1, "--strategy", "auto", "--accelerator", "cpu",
        "--module.init_args.warmup", 1, "--module.init_args.rate", "2e-3",
        "--module.init_args.log_every", 1,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def encoded():
    """Numbers of pairs of projections in each call of the encoder while the SliceFixer is trained."""
    return []


@pytest.fixture(scope="module")
def trained(work, pairs, models, encoded):
    out = work / "slicefixer"
    forward = BiplanarFeatures.forward

    def counted(encoder, biplanar):
        encoded.append(len(biplanar))
        return forward(encoder, biplanar)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BiplanarFeatures, "forward", counted)
        assert diffnr("finetune", *run_options(pairs), *base_options(models), "--out", out) == 0
    return out


def test_the_encoder_sees_each_scan_once(trained, pairs, encoded):
    names = set(open_pairs(pairs))
    assert encoded == [1] * len(names)
    assert {path.stem for path in (pairs / "features").rglob("*.safetensors")} == names


def test_the_weights_say_what_was_held_out_and_what_was_learned_from(trained):
    metadata = read_header(trained / "weights.safetensors")["metadata"]
    assert metadata["held_out"] == ["phantom_11"]
    assert metadata["learned_from"] == ["GaussianCloud"]
    assert metadata["learned_kinds"] == ["slices"]
    assert "| learned from volumes of | GaussianCloud |" in (trained / "README.md").read_text()


def test_the_loss_falls_and_everything_trained_is_kept(trained, models):
    rows = (trained / "curves" / "metrics.csv").read_text().splitlines()
    names = rows[0].split(",")
    entries = [dict(zip(names, row.split(","), strict=True)) for row in rows[1:]]
    for term in ("l2", "dssim", "lpips", "clip", "gan", "discriminator"):
        assert sum(bool(entry[f"train_{term}"]) for entry in entries) == ITERATIONS
    losses = [
        float(e["train_l2"]) + float(e["train_lpips"]) + 4 * float(e["train_clip"])
        for e in entries
        if e["train_l2"]
    ]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1
    header = read_header(trained / "weights.safetensors")
    assert header["network"] == "SliceFixer"
    assert header["architecture"]["base"] == str(models / "sd-turbo")
    assert header["metadata"]["iteration"] == ITERATIONS
    prior = load_prior(trained / "weights.safetensors")
    assert prior.trained_state().keys() >= {"fusion_adapter.norm.weight", "unet.conv_in.weight"}
    kept = torch.load(trained / "checkpoint.ckpt", weights_only=True)["state_dict"]
    assert not any("vision" in name or name.startswith("prior.encoder") for name in kept)


def reconstruct_options(case, weights):
    return [
        "--case", case, "--config", TINY / "reconstruct_gaussians.yaml",
        "--config", TINY / "reconstruct_diffnr.yaml",
        "--method.pseudo_reference.repairer.weights", weights,
    ]  # fmt: skip


def test_the_reconstruction_uses_it(case, trained, work):
    weights = trained / "weights.safetensors"
    out = work / "repaired"
    assert diffnr("reconstruct", *reconstruct_options(case, weights), "--out", out) == 0
    assert json.loads((out / "metrics.json").read_text())["protocols"]["r2"]["psnr"] > 5
    again = work / "empty_prompt"
    options = ["--method.pseudo_reference.repairer.overrides", "{text: false}"]
    assert diffnr("reconstruct", *reconstruct_options(case, weights), *options, "--out", again) == 0
    assert not np.array_equal(voxels(out), voxels(again))


def test_the_file_of_the_authors_serves_as_well(case, trained, work, models):
    path = work / "released.pkl"
    export_turbo_checkpoint(path, load_prior(trained / "weights.safetensors"))
    out = work / "from_pkl"
    overrides = {"base": models / "sd-turbo", "encoder": models / "rad-dino", "size": 32}
    text = json.dumps(
        {key: value if key == "size" else str(value) for key, value in overrides.items()}
    )
    options = ["--method.pseudo_reference.repairer.overrides", text]
    assert diffnr("reconstruct", *reconstruct_options(case, path), *options, "--out", out) == 0
    assert np.isfinite(voxels(out)).all()


def test_missing_base_weights_are_one_sentence(pairs, models, tmp_path, capsys):
    options = [*run_options(pairs), *base_options(models), "--out", tmp_path / "run"]
    place = options.index("--prior.init_args.base") + 1
    options[place] = tmp_path / "nowhere"
    assert diffnr("finetune", *options) == 2
    message = capsys.readouterr().err
    assert "nowhere" in message and "hf download" in message
    assert "Traceback" not in message
    assert not (tmp_path / "run").exists()


def test_an_organ_without_a_prompt_is_refused(pairs, models, tmp_path, capsys):
    options = [*run_options(pairs), *base_options(models), "--out", tmp_path / "run"]
    assert diffnr("finetune", *options, "--prior.init_args.organ", "elbow") == 2
    assert "elbow" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--strategy", "deepspeed_stage_2"), "use fsdp or ddp"),
        (("--strategy", "fsdp_cpu_offload"), "use fsdp or ddp"),
        (("--strategy", "fsdp", "--precision", "16-mixed"), "expected bf16-mixed or 32-true"),
        (("--strategy", "fsdp", "--devices", "auto"), "devices is 'auto' with strategy fsdp"),
    ],
)
def test_a_strategy_that_cannot_be_served_is_refused(
    pairs, models, tmp_path, capsys, options, message
):
    common = [*run_options(pairs), *base_options(models), "--out", tmp_path / "run"]
    assert diffnr("finetune", *common, *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
