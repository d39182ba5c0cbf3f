"""`--start` of trainings: the weights are those of the file, and the settings of the network may not say otherwise."""

from pathlib import Path

import pytest

from diffnr_lightning.priors import (
    CompactDenoiser,
    CompactSliceFixer,
    PatchDenoiser,
    SliceFixer,
    export_turbo_checkpoint,
    save_denoiser,
    save_prior,
)
from diffnr_lightning.workflows.training.started_prior import started_denoiser, started_prior
from tests.tiny_models import write_tiny_rad_dino, write_tiny_sd_turbo

OURS = "diffnr_lightning.priors"
SMALL = {"channels": [8, 16], "embedding": 16}


@pytest.fixture(scope="module")
def compact(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "compact.safetensors"
    save_prior(path, CompactSliceFixer(**SMALL))
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Arguments of a SliceFixer on tiny models."""
    folder = tmp_path_factory.mktemp("models")
    models = (
        write_tiny_sd_turbo(folder / "sd-turbo"),
        write_tiny_rad_dino(folder / "rad-dino"),
    )
    return {"base": str(models[0]), "encoder": str(models[1]), "size": 32}


def described(name, **arguments):
    return {"class_path": f"{OURS}.{name}", "init_args": arguments}


def test_a_prior_that_agrees_or_says_nothing_is_that_of_the_file(compact):
    for node in (
        None,
        "own.function",
        described("CompactSliceFixer", **SMALL),
        described("CompactSliceFixer", channels=[48, 96, 144, 192], noise=False),  # the defaults
    ):
        network = started_prior(compact, node, {})
        assert network.architecture["channels"] == [8, 16]
        assert network.training
        assert all(parameter.requires_grad for parameter in network.parameters())


def test_an_override_makes_it_agree(compact):
    node = described("CompactSliceFixer", **SMALL, noise=True)
    assert started_prior(compact, node, {"noise": True}).noise
    with pytest.raises(ValueError, match=r"prior.init_args.noise is True, but False in start"):
        started_prior(compact, node, {})


def test_a_command_refuses_before_it_writes(compact, refused):
    data = ("--data.folders", "[pairs]", "--out", "run")
    message = refused("finetune", "--config", "finetune/compact", *data, "--start", compact)
    assert "prior.init_args.channels is [32, 64, 128, 192], but [8, 16] in start" in message


def test_another_class_is_refused(compact):
    with pytest.raises(ValueError, match="a SliceFixer, but start .* holds a CompactSliceFixer"):
        started_prior(compact, described("SliceFixer", organ="chest"), {})


def test_what_a_released_file_does_not_hold_is_applied(base, tmp_path):
    path = tmp_path / "theirs.pkl"
    export_turbo_checkpoint(path, SliceFixer(**base))
    arguments = {**base, "organ": "tooth", "gradient_checkpointing": True}
    network = started_prior(path, described("SliceFixer", **arguments), {})
    assert network.architecture["organ"] == "tooth"
    assert network.architecture["base"] == base["base"]
    assert network.gradient_checkpointing
    assert {n for n, p in network.named_parameters() if p.requires_grad} == {
        n for n, p in SliceFixer(**base).named_parameters() if p.requires_grad
    }


def test_what_a_file_holds_is_replaced_by_overrides_alone(base, tmp_path):
    path = tmp_path / "chest.safetensors"
    save_prior(path, SliceFixer(**base))
    node = described("SliceFixer", **base, organ="tooth", gradient_checkpointing=True)
    message = r"organ is 'tooth', but 'chest' in start .*; .* by start_overrides.organ"
    with pytest.raises(ValueError, match=message):
        started_prior(path, node, {})
    network = started_prior(path, node, {"organ": "tooth"})
    assert network.architecture["organ"] == "tooth"
    assert network.gradient_checkpointing


OF_SLICES = {"channels": 1, "widths": [8, 16], "gaps": 0, "voxels": [-0.8, 0.4]}
OF_PATCHES = {"patch": 16, "widths": [8, 16]}


@pytest.fixture(scope="module")
def denoisers(tmp_path_factory):
    """Folders of a denoiser of each class."""
    folder = tmp_path_factory.mktemp("denoisers")
    save_denoiser(folder / "slices", CompactDenoiser(**OF_SLICES))
    save_denoiser(folder / "patches", PatchDenoiser(**OF_PATCHES))
    return folder


@pytest.mark.parametrize(
    ("name", "node"),
    [
        ("slices", None),
        ("slices", "own.function"),
        ("slices", described("CompactDenoiser", **OF_SLICES, steps=1000)),
        ("patches", described("CompactDenoiser", widths=[32, 64, 96, 128])),  # the defaults
        ("patches", described("PatchDenoiser", **OF_PATCHES, prediction="v_prediction")),
    ],
)
def test_a_denoiser_that_agrees_or_says_nothing_is_that_of_the_folder(name, node, denoisers):
    assert (started_denoiser(denoisers / name, node).dimensions == 3) == (name == "patches")


def test_a_folder_is_meant_where_a_denoiser_of_the_package_has_its_name(denoisers, monkeypatch):
    monkeypatch.chdir(denoisers)
    assert started_denoiser(Path("slices"), None).channels == 1


@pytest.mark.parametrize(
    ("name", "node", "words"),
    [
        (
            "slices",
            described("CompactDenoiser", widths=[16, 32]),
            r"widths is \[16, 32\], but .*8, 16",
        ),
        ("slices", described("CompactDenoiser", layers=2), "layers is 2, but 1"),
        (
            "slices",
            described("CompactDenoiser", prediction="epsilon"),
            "but 'v_prediction' in start",
        ),
        ("slices", described("CompactDenoiser", voxels=[-0.8, 0.5]), "voxels is"),
        (
            "patches",
            described("PatchDenoiser", fold=1),
            "denoiser.init_args.fold is 1, but 2 in start",
        ),
        ("patches", described("CompactDenoiser", channels=1), "but start .* holds a PatchDenoiser"),
        (
            "slices",
            described("PatchDenoiser"),
            "denoiser is a PatchDenoiser, but start .* a UNetDenoiser",
        ),
    ],
)
def test_a_denoiser_of_other_settings_is_refused(name, node, words, denoisers):
    with pytest.raises(ValueError, match=words):
        started_denoiser(denoisers / name, node)
