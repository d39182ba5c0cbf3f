from pathlib import Path

import pytest

from diffnr_lightning.priors import (
    CompactSliceFixer,
    Repairer,
    bundled_weights,
    load_prior,
    refuse_fbp_unet,
    refuse_slicefixer,
    save_prior,
)


def written(
    path: Path,
    learned_from: list[str] | None,
    kinds: list[str] | None = None,
    **architecture: bool,
) -> tuple:
    """File of a small network that says what it has learned from, and the network."""
    prior = CompactSliceFixer(channels=[8, 16], embedding=16, **architecture)
    said = {"learned_from": learned_from, "learned_kinds": kinds}
    said = {key: names for key, names in said.items() if names is not None}
    save_prior(path / "weights.safetensors", prior, said)
    return path / "weights.safetensors", prior


@pytest.mark.parametrize("methods", [["analytic"], ["fbp", "fdk"]])
def test_an_fbp_unet_is_no_slicefixer(tmp_path, methods):
    weights, prior = written(tmp_path, methods)
    with pytest.raises(ValueError, match="an FBP-UNet") as error:
        refuse_fbp_unet(weights)
    assert str(weights) in str(error.value)
    refuse_slicefixer(weights, prior)


@pytest.mark.parametrize("methods", [["GaussianCloud"], ["NeuralField", "sirt"]])
def test_a_slicefixer_is_no_fbp_unet_whatever_it_looks_at(tmp_path, methods):
    weights, prior = written(tmp_path, methods, biplanar=False)
    with pytest.raises(ValueError, match="a SliceFixer") as error:
        refuse_slicefixer(weights, prior)
    assert str(weights) in str(error.value) and methods[0] in str(error.value)
    refuse_fbp_unet(weights)


def test_what_has_learned_from_both_serves_both(tmp_path):
    weights, prior = written(tmp_path, ["GaussianCloud", "analytic"])
    refuse_fbp_unet(weights)
    refuse_slicefixer(weights, prior)


@pytest.mark.parametrize("learned", [None, []])
def test_files_that_do_not_say_it_are_told_apart_by_what_they_look_at(tmp_path, learned):
    weights, prior = written(tmp_path, learned, biplanar=False)
    refuse_fbp_unet(weights)
    refuse_slicefixer(weights, prior)
    for looks_at in ({}, {"biplanar": False, "residual": True}):
        weights, prior = written(tmp_path, learned, **looks_at)
        refuse_fbp_unet(weights)
        with pytest.raises(ValueError, match="learned to look at projections"):
            refuse_slicefixer(weights, prior)


@pytest.mark.parametrize("kinds", [["projections"], ["projections", "slices"], ["slices"], None])
def test_what_has_seen_projections_alone_is_warned_of_where_volumes_are_repaired(
    tmp_path, caplog, kinds
):
    weights, _ = written(tmp_path, ["GaussianCloud"], kinds)
    Repairer(weights)
    assert (f"{weights}, which has seen projections alone" in caplog.text) == (
        kinds == ["projections"]
    )


def test_a_released_checkpoint_is_not_read_for_it(tmp_path):
    refuse_fbp_unet(tmp_path / "model_20001.pkl")


def test_the_weights_of_the_package_are_what_they_are():
    for name, refuses in (("fbp_unet", refuse_fbp_unet), ("compact_slicefixer", refuse_slicefixer)):
        weights = bundled_weights(name)
        given = (weights,) if refuses is refuse_fbp_unet else (weights, load_prior(weights))
        with pytest.raises(ValueError, match=f"{name}.safetensors holds"):
            refuses(*given)
