"""What the constructor of a prior freezes is not finetuned."""

import functools

import pytest
import torch
from safetensors.torch import load_file

from diffnr_lightning.data.slice_pairs import SlicePairData, write_pairs
from diffnr_lightning.modules import SliceFixerFinetuning
from diffnr_lightning.priors import CompactSliceFixer, load_prior
from diffnr_lightning.workflows import finetune

pytestmark = pytest.mark.filterwarnings("ignore")


class HalfFrozen(CompactSliceFixer):
    """A prior of the user's own with a frozen encoder."""

    def __init__(self) -> None:
        super().__init__(channels=(8, 16), embedding=16)
        self.architecture = {}
        self.encoder.requires_grad_(False)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    clean = torch.full((2, 16, 16), 0.2)
    clean[:, 4:10, 4:12] = 0.7
    degraded = (clean + 0.1 * torch.sin(1.3 * torch.arange(16.0)))[None]
    about = {"biplanar": torch.rand(2, 16, 16), "info": {"case": "one", "views": 24}}
    write_pairs(folder, "one", degraded=degraded, clean=clean, **about)
    return folder


def finetuned(pairs, out, **options):
    """The weights after two batches."""
    data = SlicePairData([pairs], 2, held_out_share=0, batch_size=1, crop=16)
    module = functools.partial(SliceFixerFinetuning, iterations=2, warmup=0, rate=1e-2)
    finetune(out, data, module=module, iterations=2, device="cpu", **options)
    return load_file(out / "weights.safetensors")


class OfOneSize(CompactSliceFixer):
    size = 32


def test_crops_of_another_size_than_the_prior_repairs_are_refused(pairs, tmp_path):
    with pytest.raises(ValueError, match=r"data\.crop is 16, .* resized to 32 pixels"):
        finetuned(pairs, tmp_path / "run", prior=OfOneSize)
    assert not (tmp_path / "run").exists()


def changed(weights, others):
    return {name for name in weights if not torch.equal(weights[name], others[name])}


def test_they_stay_frozen_also_when_weights_are_taken_up(pairs, tmp_path):
    torch.manual_seed(0)
    first = HalfFrozen().state_dict()
    weights = finetuned(pairs, tmp_path / "first", prior=HalfFrozen)
    found = changed(weights, first)
    assert "conv_out.weight" in found
    assert not [name for name in found if name.startswith("encoder.")]
    started = {"start": tmp_path / "first" / "weights.safetensors", "start_allow": ("tests",)}
    again = finetuned(pairs, tmp_path / "second", **started)
    found = changed(again, weights)
    assert "conv_out.weight" in found
    assert not [name for name in found if name.startswith("encoder.")]


def test_a_prior_that_comes_frozen_is_trained_as_a_whole(pairs, tmp_path):
    weights = finetuned(pairs, tmp_path / "first", prior=HalfFrozen)
    path = tmp_path / "first" / "weights.safetensors"
    loaded = functools.partial(load_prior, path, allow=("tests",))
    again = finetuned(pairs, tmp_path / "second", prior=loaded)
    assert any(name.startswith("encoder.") for name in changed(again, weights))
