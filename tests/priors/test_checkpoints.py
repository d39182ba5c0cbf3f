from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from diffnr_lightning.priors import (
    CompactSliceFixer,
    biplanar_conditioning,
    checkpoints,
    load_default,
    load_prior,
    read_header,
    save_prior,
)

SMALL = {
    "context": 2,
    "channels": [8, 16],
    "blocks": 1,
    "embedding": 16,
    "residual": False,
    "noise": False,
    "biplanar": True,
}


@pytest.fixture
def prior() -> CompactSliceFixer:
    torch.manual_seed(0)
    network = CompactSliceFixer(**SMALL)
    torch.nn.init.normal_(network.conv_out.weight, std=0.1)
    return network


@pytest.fixture
def weights(tmp_path, prior):
    path = tmp_path / "prior.safetensors"
    save_prior(path, prior, {"iteration": 7})
    return path


def rewritten(path, **changes):
    """Write the file again with other header entries or tensors."""
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    header.update({k: v for k, v in changes.items() if isinstance(v, str)})
    tensors.update({k: v for k, v in changes.get("tensors", {}).items() if v is not None})
    for name in [k for k, v in changes.get("tensors", {}).items() if v is None]:
        del tensors[name]
    save_file(tensors, path, metadata=header)
    return path


def assert_refused(path, match, error=ValueError, reader=load_prior):
    with pytest.raises(error, match=match) as caught:
        reader(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert message.endswith(".") and ". " not in message  # one sentence


def test_a_loaded_prior_repairs_as_the_saved_one(weights, prior):
    loaded = load_prior(weights)
    assert loaded.architecture == SMALL
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, prior.state_dict()[name], atol=1e-6, rtol=1e-3)
        assert torch.equal(tensor, prior.state_dict()[name].half().float())
    told = biplanar_conditioning(torch.rand(4, 8, 8), torch.arange(4) * torch.pi / 4)
    slices = torch.rand(2, 5, 16, 24)
    torch.testing.assert_close(
        loaded.repair(slices, told), prior.eval().repair(slices, told), atol=2e-3, rtol=0
    )


def test_a_trained_prior_is_given_an_eye_for_the_residual(weights, tmp_path):
    blind, seeing = load_prior(weights), load_prior(weights, residual=True)
    assert seeing.residual and not blind.residual
    told = biplanar_conditioning(torch.rand(4, 8, 8), torch.arange(4) * torch.pi / 4)
    slices = torch.rand(2, 5, 16, 24)
    shown = told._replace(residual=torch.rand(2, 5, 16, 24))
    torch.testing.assert_close(seeing.repair(slices, shown), blind.repair(slices, told))
    with pytest.raises(ValueError, match="which takes no residual=False"):
        load_prior(weights, residual=False)
    again = tmp_path / "seeing.safetensors"
    save_prior(again, seeing)
    assert load_prior(again).residual and load_prior(again, residual=True).residual
    both = load_prior(again, noise=True)
    assert both.residual and both.noise and not seeing.noise
    noisy = shown._replace(noise=torch.rand(2, 1, 16, 24))
    torch.testing.assert_close(both.repair(slices, noisy), seeing.repair(slices, shown))


def test_a_second_round_trip_changes_nothing(tmp_path, weights):
    first, again = load_prior(weights), tmp_path / "again.safetensors"
    save_prior(again, first, {"iteration": 7})
    assert read_header(again) == read_header(weights)
    for name, tensor in load_prior(again).state_dict().items():
        assert torch.equal(tensor, first.state_dict()[name])


def test_metadata_is_kept(tmp_path, prior):
    metadata = {"iteration": 3, "validation": {"val_psnr": 31.5}, "data": ["a", "ü"], "none": None}
    save_prior(tmp_path / "prior.safetensors", prior, metadata)
    header = read_header(tmp_path / "prior.safetensors")
    assert header == {
        "network": "CompactSliceFixer",
        "architecture": SMALL,
        "metadata": metadata,
    }


def test_default_network_fits_in_the_package(tmp_path):
    save_prior(tmp_path / "prior.safetensors", CompactSliceFixer())
    assert (tmp_path / "prior.safetensors").stat().st_size < 16e6


def test_saving_makes_the_folder_and_leaves_no_part(tmp_path, prior):
    path = tmp_path / "deep" / "er" / "prior.safetensors"
    save_prior(path, prior)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert read_header(path)["metadata"] == {}


def test_a_save_that_fails_keeps_the_old_file(weights, prior, monkeypatch):
    before = weights.read_bytes()

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ValueError, match="cannot be written: no space left"):
        save_prior(weights, prior, {"iteration": 8})
    assert weights.read_bytes() == before
    assert [entry.name for entry in weights.parent.iterdir()] == [weights.name]


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_weights_that_float16_cannot_hold_are_not_saved(tmp_path, prior, value):
    with torch.no_grad():
        prior.conv_in.bias[0] = value
    with pytest.raises(ValueError, match="weight conv_in.bias of the prior is not finite"):
        save_prior(tmp_path / "prior.safetensors", prior)
    assert not list(tmp_path.iterdir())


def test_networks_that_repair_nothing_are_not_saved(tmp_path):
    with pytest.raises(ValueError, match="torch.nn.modules.linear.Linear cannot be exported"):
        save_prior(tmp_path / "prior.safetensors", torch.nn.Linear(1, 1))


@pytest.mark.parametrize("reader", [load_prior, read_header])
def test_a_missing_file_is_named(tmp_path, reader):
    assert_refused(tmp_path / "no.safetensors", "does not exist", FileNotFoundError, reader)


@pytest.mark.parametrize("reader", [load_prior, read_header])
@pytest.mark.parametrize("left", [0, 5, 400, -1])
def test_a_truncated_file_is_refused(weights, reader, left):
    weights.write_bytes(weights.read_bytes()[:left])
    assert_refused(weights, "damaged", reader=reader)


@pytest.mark.parametrize(
    "content",
    [
        bytes(range(256)) * 20,
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 8) + b"notjson!",
    ],
    ids=["random", "huge header", "no json"],
)
def test_other_bytes_are_refused(tmp_path, content):
    path = tmp_path / "prior.safetensors"
    path.write_bytes(content)
    assert_refused(path, "damaged")


@pytest.mark.parametrize("reader", [load_prior, read_header])
def test_a_damaged_header_is_refused(weights, reader):
    content = bytearray(weights.read_bytes())
    content[20:60] = b"\xff" * 40
    weights.write_bytes(content)
    assert_refused(weights, "damaged", reader=reader)


@pytest.mark.parametrize("reader", [load_prior, read_header])
def test_a_pickle_is_never_opened(tmp_path, reader):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    path = tmp_path / "prior.safetensors"
    path.write_bytes(pickle.dumps(Trap()))
    assert_refused(path, "is not the weights file of a prior", reader=reader)
    torch.save({"weight": torch.ones(3), "trap": Trap()}, path)
    assert_refused(path, "is not the weights file of a prior", reader=reader)
    assert not (tmp_path / "sprung").exists()


def test_safetensors_of_others_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.ones(3)}, path)
    assert_refused(path, "not written by this program")
    save_file({"weight": torch.ones(3)}, path, metadata={"format": "pt"})
    assert_refused(path, "not written by this program")


@pytest.mark.parametrize(
    "changes",
    [
        {"network": "Unknown"},
        {"architecture": "[]"},
        {"architecture": "{"},
        {"metadata": "3"},
        {"format": "diffnr prior 99"},
    ],
    ids=str,
)
def test_headers_that_describe_no_prior_are_refused(weights, changes):
    assert_refused(rewritten(weights, **changes), "is not the weights file of a prior")


@pytest.mark.parametrize(
    "architecture",
    [
        {**SMALL, "channels": [16, 16]},
        {**SMALL, "channels": [8, 16, 16]},
        {**SMALL, "context": 1},
        {**SMALL, "channels": [7, 9]},
        {**SMALL, "depth": 3},
        {**SMALL, "channels": "wide"},
        {**SMALL, "channels": [8_000_000, 8_000_000]},  # must be refused before it is allocated
    ],
    ids=str,
)
def test_an_architecture_that_is_not_that_of_the_weights_is_refused(weights, architecture):
    changed = rewritten(weights, architecture=json.dumps(architecture))
    assert_refused(changed, "holds no usable CompactSliceFixer")


@pytest.mark.parametrize(
    "tensors",
    [
        {"conv_in.bias": None},
        {"conv_in.bias": torch.zeros(9)},
        {"surplus": torch.zeros(1)},
        {"conv_in.bias": torch.full((8,), torch.nan)},
    ],
    ids=["missing", "another shape", "surplus", "nan"],
)
def test_weights_that_are_not_those_of_the_architecture_are_refused(weights, tensors):
    assert_refused(rewritten(weights, tensors=tensors), "holds no usable CompactSliceFixer")


def test_a_package_without_its_weights_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoints, "BUNDLED", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"slicefixer.safetensors are missing .*reinstall"):
        load_default()


def test_priors_of_the_package_are_chosen_by_name(tmp_path, monkeypatch, weights):
    monkeypatch.setattr(checkpoints, "BUNDLED", tmp_path / "assets")
    (tmp_path / "assets").mkdir()
    shutil.copy(weights, tmp_path / "assets" / "compact_slicefixer.safetensors")
    shutil.copy(weights, tmp_path / "assets" / "other.safetensors")
    assert load_default().architecture == SMALL
    monkeypatch.chdir(tmp_path)
    Path("other").mkdir()  # such as a run of that name
    for name, stem in ((None, "compact_slicefixer"), ("other", "other")):
        prior, path = checkpoints.chosen_prior(name and Path(name), None, ())
        assert prior.architecture == SMALL
        assert path == tmp_path / "assets" / f"{stem}.safetensors"
    assert checkpoints.chosen_prior(weights, None, ())[1] == weights
    with pytest.raises(FileNotFoundError, match="another does not exist"):
        checkpoints.chosen_prior(Path("another"), None, ())
