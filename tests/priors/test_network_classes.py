from __future__ import annotations

import sys

import pytest
import torch

from diffnr_lightning.priors import (
    CompactSliceFixer,
    Repairer,
    load_prior,
    network_name,
    read_header,
    save_prior,
)

MODULE = """
import torch

from diffnr_lightning.priors import SliceFixer

class Scaling(torch.nn.Module):
    context, size, biplanar_size, residual = 0, None, 16, False

    def __init__(self, factor=1.0, widths=(2, 3)):
        super().__init__()
        self.architecture = {"factor": factor, "widths": widths}
        self.factor = torch.nn.Parameter(torch.tensor(float(factor)))

    def forward(self, slices, conditioning):
        return self.factor * slices[:, 0]

    @torch.no_grad()
    def repair(self, slices, conditioning):
        return self(slices, conditioning).clamp(0, 1)

class Tied(Scaling):
    def __init__(self, factor=1.0, widths=(2, 3)):
        super().__init__(factor, widths)
        self.again = self.factor

class Silent(Scaling):
    architecture = None

    def __init__(self):
        super().__init__()
        self.architecture = None

class Unbuildable(Scaling):
    def __init__(self, width):
        super().__init__()

class Idle(torch.nn.Module):
    architecture = {}

class Own(SliceFixer):
    pass

def inside():
    class Local(Scaling):
        pass
    return Local()
"""


@pytest.fixture
def networks(tmp_path, monkeypatch):
    """A module of the user's own, outside of the package."""
    folder = tmp_path / "lib"
    folder.mkdir()
    (folder / "own_networks.py").write_text(MODULE)
    monkeypatch.syspath_prepend(folder)
    yield __import__("own_networks")
    sys.modules.pop("own_networks", None)


@pytest.fixture
def weights(networks, tmp_path):
    prior = networks.Scaling(factor=0.123456789)
    save_prior(tmp_path / "own.safetensors", prior, {"iteration": 3})
    return tmp_path / "own.safetensors"


def test_weights_under_two_names_make_the_round_trip(networks, tmp_path):
    path = tmp_path / "tied.safetensors"
    save_prior(path, networks.Tied(factor=0.3))
    loaded = load_prior(path, allow=["own_networks"])
    assert loaded.again is loaded.factor
    assert loaded.factor.item() == pytest.approx(0.3)


def test_a_class_of_the_users_own_makes_the_round_trip(weights, networks):
    assert read_header(weights)["network"] == "own_networks.Scaling"
    loaded = load_prior(weights, allow=["own_networks"])
    assert type(loaded) is networks.Scaling
    assert loaded.architecture["widths"] == [2, 3]
    assert torch.equal(loaded.factor, torch.tensor(0.123456789))
    assert not loaded.training and not loaded.factor.requires_grad
    assert type(Repairer(weights, allow=("own_networks",)).prior) is networks.Scaling


def test_a_subclass_of_the_slicefixer_keeps_its_class(networks, tmp_path, tiny_base, tiny_encoder):
    prior = networks.Own(str(tiny_base), str(tiny_encoder), size=32)
    save_prior(tmp_path / "own.safetensors", prior)
    loaded = load_prior(tmp_path / "own.safetensors", allow=["own_networks"], organ="tooth")
    assert type(loaded) is networks.Own and loaded.architecture["organ"] == "tooth"


@pytest.mark.parametrize("allow", [(), ("own",), ("own_networks.inner",), ("torch",)])
def test_the_code_of_a_package_that_is_not_allowed_is_not_run(weights, tmp_path, allow):
    sys.modules.pop("own_networks")
    with pytest.raises(ValueError, match="imported only if allow names that package") as caught:
        load_prior(weights, allow=allow)
    assert str(weights) in str(caught.value)
    assert "own_networks" not in sys.modules


def test_a_class_that_is_gone_is_named(weights, tmp_path, monkeypatch):
    sys.modules.pop("own_networks")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not p.endswith("lib")])
    with pytest.raises(ValueError, match="class own_networks.Scaling cannot be imported"):
        load_prior(weights, allow=["own_networks"])


def test_only_networks_that_repair_are_built(networks, tmp_path, weights):
    networks.Scaling = dict
    with pytest.raises(ValueError, match="is no network with a method repair"):
        load_prior(weights, allow=["own_networks"])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda own: own.Silent(), "has no dictionary architecture"),
        (lambda own: own.Unbuildable(3), "architecture is of no use"),
        (lambda own: own.Scaling(factor=1.0, widths=torch.ones(2)), "architecture is of no use"),
        (lambda own: own.Idle(), "has no method repair"),
        (lambda own: own.inside(), "in the main script, a function or a class"),
    ],
)
def test_what_could_not_be_built_again_is_refused(networks, make, reason, tmp_path):
    prior = make(networks)
    with pytest.raises(ValueError, match=reason):
        network_name(prior)
    with pytest.raises(ValueError, match=reason):
        save_prior(tmp_path / "own.safetensors", prior)
    assert not (tmp_path / "own.safetensors").exists()


def test_ours_are_known_by_name():
    assert network_name(CompactSliceFixer(channels=(8, 8))) == "CompactSliceFixer"
