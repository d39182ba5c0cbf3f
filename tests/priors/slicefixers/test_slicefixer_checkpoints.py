from __future__ import annotations

import json
import logging
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_models import FEATURE_WIDTH, TEXT_WIDTH

from diffnr_lightning.priors import (
    CompactSliceFixer,
    export_turbo_checkpoint,
    load_prior,
    read_header,
    save_prior,
)

SIX = {
    "unet_lora_target_modules",
    "vae_lora_target_modules",
    "rank_unet",
    "rank_vae",
    "state_dict_unet",
    "state_dict_vae",
}


@pytest.fixture
def slices():
    return torch.rand(2, 1, 32, 24, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def prior(slicefixer):
    return slicefixer


@pytest.fixture
def weights(tmp_path, prior):
    path = tmp_path / "prior.safetensors"
    save_prior(path, prior, {"iteration": 7, "config": {"rate": 1e-5}})
    return path


@pytest.fixture
def released(tmp_path, prior):
    path = tmp_path / "model.pkl"
    export_turbo_checkpoint(path, prior)
    return path


@pytest.fixture
def folders(tiny_base, tiny_encoder):
    return {"base": str(tiny_base), "encoder": str(tiny_encoder)}


def changed(path, **changes):
    """Write the .pkl again with other entries; None removes one."""
    entries = torch.load(path, weights_only=True) | changes
    torch.save({name: entry for name, entry in entries.items() if entry is not None}, path)
    return path


def assert_refused(path, match, error=ValueError, **overrides):
    with pytest.raises(error, match=match) as caught:
        load_prior(path, **overrides)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert message.endswith(".") and ". " not in message  # one sentence


def test_a_loaded_slicefixer_repairs_as_the_saved_one_to_the_bit(weights, prior, told, slices):
    loaded = load_prior(weights)
    assert loaded.architecture == prior.architecture
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert torch.equal(loaded.repair(slices, told), prior.repair(slices, told))


def test_the_file_holds_what_is_trained_with_the_adapter_and_nothing_else(weights, prior):
    with safe_open(weights, framework="pt") as file:
        assert set(file.keys()) == set(prior.trained())
        assert file.get_tensor("fusion_adapter.norm.weight").dtype == torch.float32
    header = read_header(weights)
    assert header["network"] == "SliceFixer"
    assert header["metadata"] == {"iteration": 7, "config": {"rate": 1e-5}}
    assert {"base", "encoder", "organ", "prompt", "rank_unet", "normalisation", "size"} <= set(
        header["architecture"]
    )


def test_a_loaded_slicefixer_can_be_trained_further(weights, prior):
    loaded = load_prior(weights).train().requires_grad_(True)
    trainable = {n for n, p in loaded.named_parameters() if p.requires_grad}
    assert {name.removeprefix("backbone.") for name in trainable} == set(prior.trained())


def test_overrides_replace_what_the_file_says(weights, tmp_path, folders):
    moved = weights.rename(tmp_path / "moved.safetensors")
    loaded = load_prior(moved, organ="tooth", precision="bfloat16", size=64, **folders)
    assert loaded.architecture["organ"] == "tooth"
    assert (loaded.precision, loaded.size) == ("bfloat16", 64)
    without = load_prior(moved, biplanar=False)
    assert without.fusion_adapter is None and without.encoder is None


@pytest.mark.parametrize("name", ["rank_unet", "colour"])
def test_unknown_overrides_are_refused(weights, name):
    assert_refused(weights, f"{name} is no argument that may replace", **{name: 3})


def test_the_compact_network_takes_no_overrides(tmp_path):
    path = tmp_path / "compact.safetensors"
    save_prior(path, CompactSliceFixer(channels=(8, 16)))
    assert_refused(path, "CompactSliceFixer, which takes no organ", organ="chest")


@pytest.mark.parametrize(
    "tensors",
    [
        {"unet.conv_in.bias": None},
        {"unet.conv_in.bias": torch.zeros(9)},
        {"surplus": torch.zeros(1)},
        {"unet.conv_in.bias": torch.full((4,), torch.nan)},
        {"fusion_adapter.norm.bias": None},
    ],
    ids=["missing", "another shape", "surplus", "nan", "part of the adapter"],
)
def test_weights_that_do_not_fit_are_refused(weights, tensors):
    with safe_open(weights, framework="pt") as file:
        header = file.metadata()
        held = {name: file.get_tensor(name) for name in file.keys()} | tensors
    save_file({n: t for n, t in held.items() if t is not None}, weights, metadata=header)
    assert_refused(weights, "holds no usable SliceFixer")


def test_an_unknown_argument_in_the_header_is_refused(weights):
    with safe_open(weights, framework="pt") as file:
        header = file.metadata()
        held = {name: file.get_tensor(name) for name in file.keys()}
    architecture = json.loads(header["architecture"]) | {"depth": 3}
    save_file(held, weights, metadata=header | {"architecture": json.dumps(architecture)})
    assert_refused(weights, "its argument depth is unknown")


def test_a_file_whose_base_is_gone_says_how_to_give_it(weights, tmp_path):
    with pytest.raises(FileNotFoundError, match="base=FOLDER"):
        load_prior(weights, base=str(tmp_path / "gone"))


def test_weights_that_are_not_finite_are_not_saved(tmp_path, build):
    prior = build()
    with torch.no_grad():
        prior.fusion_adapter.norm.bias[0] = torch.nan
    with pytest.raises(ValueError, match="weight fusion_adapter.norm.bias of the prior is not fin"):
        save_prior(tmp_path / "prior.safetensors", prior)
    with pytest.raises(ValueError, match="weight fusion_adapter.norm.bias of the prior is not fin"):
        export_turbo_checkpoint(tmp_path / "prior.pkl", prior)
    assert not list(tmp_path.iterdir())


def test_an_exported_file_has_the_six_entries_and_the_adapter(released, build, tmp_path):
    entries = torch.load(released, weights_only=True)
    assert set(entries) == {*SIX, "slice_orientation", "state_dict_fusion_adapter"}
    assert (entries["rank_unet"], entries["rank_vae"]) == (8, 4)
    assert "conv_in.weight" in entries["state_dict_unet"]
    assert "decoder.skip_conv_1.base_layer.weight" in entries["state_dict_vae"]
    assert entries["state_dict_fusion_adapter"]["xray_proj.weight"].shape == (
        TEXT_WIDTH,
        FEATURE_WIDTH,
    )
    for part in ("unet", "vae"):
        names = entries[f"state_dict_{part}"]
        assert all("lora" in n or "conv_in" in n or "skip" in n for n in names)
    export_turbo_checkpoint(tmp_path / "plain.pkl", build(biplanar=False))
    assert set(torch.load(tmp_path / "plain.pkl", weights_only=True)) == {
        *SIX,
        "slice_orientation",
    }


def test_an_exported_file_repairs_as_the_prior_to_the_bit(released, prior, folders, told, slices):
    loaded = load_prior(released, normalisation="global", size=32, **folders)
    assert torch.equal(loaded.repair(slices, told), prior.repair(slices, told))
    for name, tensor in prior.trained_state().items():
        assert torch.equal(tensor, loaded.trained_state()[name])


def test_other_ranks_are_read_from_the_file(tmp_path, build, folders):
    export_turbo_checkpoint(tmp_path / "small.pkl", build(rank_unet=2, rank_vae=3))
    loaded = load_prior(tmp_path / "small.pkl", **folders)
    assert loaded.architecture["rank_unet"] == 2 and loaded.architecture["rank_vae"] == 3


def test_a_released_file_shows_slices_as_the_released_code_but_undoes_it(released, folders, caplog):
    with caplog.at_level(logging.INFO, "diffnr"):
        loaded = load_prior(released, **folders)
    assert loaded.normalisation == "per_slice_minmax"
    assert not loaded.signed_input
    assert "does not say how slices are normalised" in caplog.text


def test_without_an_adapter_projections_are_off_and_the_log_says_why(released, folders, caplog):
    changed(released, state_dict_fusion_adapter=None)
    with caplog.at_level(logging.WARNING, "diffnr"):
        loaded = load_prior(released, **folders)
    assert loaded.fusion_adapter is None and not loaded.architecture["biplanar"]
    assert "conditioning by projections is off" in caplog.text
    assert "holds no fusion adapter" in caplog.text
    assert_refused(released, "holds no fusion adapter", biplanar=True, **folders)


def test_entries_of_the_known_continuation_are_understood(released, folders, caplog):
    changed(
        released,
        use_xray_conditioning=True,
        intensity_domain={"stored": "clip(HU, 0)/3000"},
        xray_conditioning={"encoder": "microsoft/rad-dino"},
    )
    with caplog.at_level(logging.WARNING, "diffnr"):
        loaded = load_prior(released, **folders)
    assert loaded.signed_input and loaded.fusion_adapter is not None
    assert loaded.normalisation == "global"
    assert "was trained on intensities {'stored': 'clip(HU, 0)/3000'}" in caplog.text
    changed(released, use_xray_conditioning=False)
    with caplog.at_level(logging.WARNING, "diffnr"):
        assert load_prior(released, **folders).fusion_adapter is None
    assert "turns it off itself" in caplog.text


def test_the_header_of_a_released_file_is_what_follows_from_it(released):
    header = read_header(released)
    assert header["network"] == "SliceFixer"
    assert header["architecture"]["rank_unet"] == 8
    assert header["architecture"]["biplanar"] is True


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"rank_vae": None}, "it has no entry rank_vae"),
        ({"state_dict_unet": None}, "it has no entry state_dict_unet"),
        ({"mask_head": {}}, "its entry mask_head is unknown"),
        ({"rank_unet": "8"}, "rank_unet is '8'"),
        ({"rank_unet": True}, "rank_unet is True"),
        ({"rank_unet": 10**9}, "rank_unet is 1000000000"),
        ({"vae_lora_target_modules": ["conv"]}, "vae_lora_target_modules is not the list"),
        ({"state_dict_vae": [1]}, "state_dict_vae is no dictionary of tensors"),
        ({"state_dict_vae": {"a": 1}}, "state_dict_vae is no dictionary of tensors"),
        ({"state_dict_vae": {"a": torch.tensor(torch.nan)}}, "holds weights that are not finite"),
        ({"use_xray_conditioning": "yes"}, "neither true nor false"),
    ],
    ids=str,
)
def test_other_entries_are_refused_before_the_base_is_read(released, changes, match):
    assert_refused(changed(released, **changes), match, base="/nowhere")


def test_tensors_of_other_shapes_and_names_are_refused(released, folders):
    entries = torch.load(released, weights_only=True)
    state = entries["state_dict_unet"]
    for other in (
        state | {"conv_in.bias": torch.zeros(7)},
        state | {"conv_in.extra": torch.zeros(7)},
        {name: tensor for name, tensor in state.items() if name != "conv_in.bias"},
        {},
    ):
        changed(released, state_dict_unet=other)
        assert_refused(released, r"holds no usable SliceFixer \(unet.", **folders)
    changed(released, state_dict_unet=state, rank_unet=4)
    assert_refused(released, "holds no usable SliceFixer", **folders)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_code_in_a_file_is_never_run(tmp_path, released, how):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    if how == "torch":
        changed(released, state_dict_vae=Trap())
    else:
        released.write_bytes(pickle.dumps({"rank_unet": Trap()}))
    assert_refused(released, "would run code")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("left", [0, 7, 1000, -1])
def test_a_truncated_file_is_refused(released, left):
    released.write_bytes(released.read_bytes()[:left])
    assert_refused(released, "is damaged")


def test_other_files_are_refused(tmp_path):
    assert_refused(tmp_path / "none.pkl", "does not exist", FileNotFoundError)
    path = tmp_path / "other.pkl"
    path.write_bytes(bytes(range(256)) * 9)
    assert_refused(path, "is damaged")
    torch.save(torch.ones(3), path)
    assert_refused(path, "it holds a Tensor")


def test_only_slicefixers_are_exported_and_only_to_pkl(tmp_path, prior):
    with pytest.raises(ValueError, match="prior is a CompactSliceFixer"):
        export_turbo_checkpoint(tmp_path / "a.pkl", CompactSliceFixer(channels=(8, 16)))
    with pytest.raises(ValueError, match=r"path .*a.bin; expected .* ends in .pkl"):
        export_turbo_checkpoint(tmp_path / "a.bin", prior)


def test_slices_of_the_authors_have_rows_along_x(released, folders):
    theirs = changed(released, slice_orientation=None)
    assert load_prior(theirs, **folders).orientation == "xyz"
    assert load_prior(theirs, orientation="zyx", **folders).orientation == "zyx"
    assert_refused(changed(released, slice_orientation="yxz"), "slice_orientation", **folders)


def test_the_orientation_is_kept_with_the_weights(tmp_path, build):
    save_prior(tmp_path / "theirs.safetensors", build(orientation="xyz"))
    assert load_prior(tmp_path / "theirs.safetensors").orientation == "xyz"
    export_turbo_checkpoint(tmp_path / "theirs.pkl", build(orientation="xyz"))
    assert torch.load(tmp_path / "theirs.pkl", weights_only=True)["slice_orientation"] == "xyz"


def test_a_file_that_does_not_say_has_our_orientation(weights, tmp_path):
    with safe_open(weights, framework="pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    architecture = json.loads(header["architecture"])
    del architecture["orientation"]
    header["architecture"] = json.dumps(architecture)
    save_file(tensors, tmp_path / "older.safetensors", metadata=header)
    assert load_prior(tmp_path / "older.safetensors").orientation == "zyx"
