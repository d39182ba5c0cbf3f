"""`diffnr train-denoiser` from volumes to a folder that samplers and diffusers read."""

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file

from diffnr_lightning import cli
from diffnr_lightning.callbacks.run_record import RunRecord
from diffnr_lightning.priors import load_denoiser
from diffnr_lightning.priors.denoisers.denoiser_folders import read_metadata
from diffnr_lightning.workflows.denoiser_training import by_level

WEIGHTS = "denoiser/unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def options(tmp_path_factory, repository):
    """Two small bodies, and a config for tests."""
    folder = tmp_path_factory.mktemp("volumes")
    generator = np.random.default_rng(0)
    for name in ("one", "phantom_101"):
        volume = np.full((16, 16, 16), -1000, np.float32)
        volume[2:14, 2:14, 2:14] = generator.uniform(-100, 300, (12, 12, 12))
        np.save(folder / f"{name}.npy", volume)
    config = repository / "configs" / "tiny" / "train-denoiser.yaml"
    volumes = [str(folder / "one.npy"), str(folder / "phantom_101.npy")]
    return ["train-denoiser", "--config", str(config), "--volumes", *volumes]


@pytest.fixture(scope="module")
def trained(options, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    assert cli.main([*options, "--out", str(out)]) == 0
    return out


def test_the_run_folder_holds_a_denoiser_and_what_it_reached(trained, options, capsys):
    denoiser = load_denoiser(trained / "denoiser")
    assert (denoiser.channels, denoiser.gaps) == (3, 4)
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["held_out"] == ["phantom_101"]
    assert metrics["validation"].keys() == read_metadata(trained / "denoiser")["validation"].keys()
    assert {"val_noise", "val_linear", "val_noise_0250", "val_noise_0750"} <= set(
        metrics["validation"]
    )
    assert "val_noise_0250" in (trained / "curves" / "metrics.csv").read_text()
    assert by_level(metrics["validation"]).startswith("share of the noise")
    before = (trained / WEIGHTS).stat().st_mtime_ns
    assert cli.main([*options, "--out", str(trained)]) == 0
    assert "is finished already" in capsys.readouterr().err
    assert (trained / WEIGHTS).stat().st_mtime_ns == before


def test_an_interrupted_run_goes_on_to_the_same_weights(trained, options, tmp_path, monkeypatch):
    out = tmp_path / "out"
    kept = RunRecord.on_train_batch_end

    def interrupted(self, trainer, pl_module, *rest):
        kept(self, trainer, pl_module, *rest)
        if pl_module.iteration == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunRecord, "on_train_batch_end", interrupted)
    assert cli.main([*options, "--out", str(out)]) == cli.INTERRUPTED
    assert not (out / WEIGHTS).exists()
    monkeypatch.setattr(RunRecord, "on_train_batch_end", kept)
    store = ["--data.init_args.store", str(tmp_path / "store")]
    assert cli.main([*options, "--out", str(out), *store]) == 0
    whole, resumed = (load_file(folder / WEIGHTS) for folder in (trained, out))
    assert all((whole[name] == resumed[name]).all() for name in whole)
    assert len(list((tmp_path / "store").glob("*.safetensors"))) == 2


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["--volumes", "phantom:300"], "which the splits keep for test"),
        (["--exclude", "*"], "exclude leaves no volume"),
        (["--data.init_args.channels", "2"], "the denoiser takes 3 channels of 2 dimensions"),
        (["--denoiser.init_args.gaps", "2"], "the denoiser knows those below 2"),
        (["--data.init_args.gaps", "[5]"], "the denoiser's gaps to be 6"),
        (["--data.init_args.gaps", "[1, 3]"], "the denoiser's alone to be false"),
        (["--data.init_args.iterations", "9"], "the three have to agree"),
        (["--data.init_args.held_out", "[three]"], "held_out has 'three'"),
        (["--data.init_args.crop", "9"], "crop"),
        (["--denoiser", "torch.nn.Identity"], "Identity cannot be kept in a folder"),
        (["--start", "."], "has no unet/config.json"),
        (["--start", "none"], "start none does not exist"),
        (["--accelerator", "cpu", "--devices", "0"], "devices is 0, which Lightning cannot serve"),
        (["--strategy", "nonsense"], "invalid strategy name"),
        (["--validate_every", "0"], "validate_every is 0; a whole number of at least 1"),
        (["--checkpoint_every", "0"], "checkpoint_every is 0"),
        (["--strategy", "fsdp"], "a denoiser has no frozen weights"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    changed, words, options, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*options, *changed, "--out", "out"]) == cli.USAGE_ERROR
    error = capsys.readouterr().err
    assert words in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_settings_that_the_start_contradicts_are_refused(trained, options, tmp_path, capsys):
    start = ["--start", str(trained / "denoiser"), "--out", str(tmp_path / "out")]
    assert (
        cli.main([*options, "--denoiser.init_args.widths", "[16, 32]", *start]) == cli.USAGE_ERROR
    )
    assert "denoiser.init_args.widths is [16, 32], but [8, 16] in start" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_training_does_not_go_on_with_other_volumes(options, tmp_path, capsys):
    """A pattern may match further files by the time a killed training goes on."""
    *command, first, second = options
    for source in (first, second):
        shutil.copy(source, tmp_path)
    command += [str(tmp_path / "*.npy"), "--out", str(tmp_path / "run")]
    assert cli.main(command) == 0
    (tmp_path / "run" / "metrics.json").unlink()
    shutil.copy(first, tmp_path / "three.npy")
    assert cli.main(command) == cli.USAGE_ERROR
    assert "another content of names of volumes" in capsys.readouterr().err


@pytest.mark.parametrize("store", [[], ["--data.init_args.store", "store"]])
def test_a_volume_that_cannot_be_learned_from_leaves_no_run(
    store, options, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged.npy").touch()
    volumes = [*options[options.index("--volumes") :], "damaged.npy"]
    command = [*options[: options.index("--volumes")], *volumes, *store]
    assert cli.main([*command, "--out", "runs/out"]) == cli.USAGE_ERROR
    assert "damaged.npy cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
