"""Priors are asked in bfloat16 only where that is wanted or fast, and learn in float32."""

from contextlib import suppress

import pytest
import torch
from blob_scan import GRID, PROJECTIONS, SCAN, TRUTH, Halving
from torch.nn import functional as F

from diffnr_lightning.priors import CompactDenoiser, DdsRepairer, Repairer, inference, quicken
from diffnr_lightning.workflows import Sampler

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("fast", [True, False])
def test_only_processors_made_for_bfloat16_take_it_by_themselves(monkeypatch, fast):
    monkeypatch.setattr(inference, "multiplies_bfloat16", lambda: fast)
    ours = CompactDenoiser(1, (16, 24), gaps=0)
    assert inference.in_bfloat16(ours, "auto", CPU) is fast
    assert not inference.in_bfloat16(ours, "auto", GPU)
    assert not inference.in_bfloat16(Halving(), "auto", CPU)
    assert not inference.in_bfloat16(ours, "float32", CPU)
    assert all(inference.in_bfloat16(ours, "bfloat16", place) for place in (CPU, GPU))


def test_bfloat16_is_not_for_processors_or_settings_without_its_instructions(monkeypatch):
    for name in inference.INSTRUCTIONS:
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert not inference.multiplies_bfloat16()
    for name in inference.INSTRUCTIONS:
        with monkeypatch.context() as patched:
            patched.setattr(torch.cpu, name, lambda: True)
            assert inference.multiplies_bfloat16()
            with torch.backends.mkldnn.flags(enabled=False):
                assert not inference.multiplies_bfloat16()
        monkeypatch.delattr(torch.cpu, name)  # of a torch that cannot tell
    assert not inference.multiplies_bfloat16()


class Travelling(torch.nn.Linear):
    """A network that a device would hold as a copy, and whose buffer counts."""

    def __init__(self):
        super().__init__(2, 1)
        self.register_buffer("asked", torch.zeros(1))

    def to(self, device):
        if device == GPU:
            self._apply(torch.clone)
        return self


@pytest.mark.parametrize("fails", [False, True])
def test_weights_that_were_lent_are_not_copied_back(fails):
    network = Travelling()
    home = [parameter.data_ptr() for parameter in network.parameters()]
    with suppress(MemoryError), inference.lent(network, GPU):
        assert not {parameter.data_ptr() for parameter in network.parameters()} & {*home}
        network.asked += 1
        if fails:
            raise MemoryError
    assert [parameter.data_ptr() for parameter in network.parameters()] == home
    assert network.asked == 1


def repaired(**options):
    return Repairer(**options).repair(TRUTH, PROJECTIONS, GRID, SCAN).volume


def test_a_repair_in_bfloat16_is_nearly_that_in_float32(monkeypatch):
    exact, coarse = (repaired(precision=name) for name in ("float32", "bfloat16"))
    change = (exact - TRUTH).norm()
    assert 0 < (coarse - exact).norm() < 0.1 * change
    for fast, like in ((True, coarse), (False, exact)):
        monkeypatch.setattr(inference, "multiplies_bfloat16", lambda fast=fast: fast)
        assert torch.equal(repaired(), like)


class Smoothing(torch.nn.Module):
    """A denoiser of others, which says that noise is what a mean takes away."""

    def predict(self, noisy, step, told=None):
        return noisy - F.conv2d(noisy, torch.full((1, 1, 3, 3), 1 / 9), padding=1)


def test_networks_of_others_are_not_asked_in_bfloat16_unless_that_is_wanted(monkeypatch):
    monkeypatch.setattr(inference, "multiplies_bfloat16", lambda: True)
    denoiser, noisy = (
        Smoothing(),
        torch.randn(1, 1, 9, 9, generator=torch.Generator().manual_seed(1)),
    )
    with torch.no_grad():
        exact = denoiser.predict(noisy, 500)
        quicken(denoiser, "auto")
        assert torch.equal(denoiser.predict(noisy, 500), exact)
        quicken(denoiser, "bfloat16")
        assert not torch.equal(denoiser.predict(noisy, 500), exact)


def test_a_quick_denoiser_is_exact_where_it_learns():
    torch.manual_seed(2)
    denoiser = CompactDenoiser(1, (16, 24), gaps=0)
    noisy = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        before = denoiser.predict(noisy, 300)
    learning = denoiser.predict(noisy, 300)
    quicken(denoiser, "bfloat16")
    torch.testing.assert_close(denoiser.predict(noisy, 300), learning)
    assert denoiser.predict(noisy, 300).requires_grad
    with torch.no_grad():
        quick = denoiser.predict(noisy, 300)
    assert quick.dtype == torch.float32
    difference = (quick - before).norm()
    assert 1e-5 * before.norm() < difference < 0.05 * before.norm()


def test_a_precision_that_there_is_not_is_refused():
    words = "precision is 'half'; 'auto', 'float32' or 'bfloat16' is expected"
    with pytest.raises(ValueError, match=words):
        Repairer(precision="half")
    with pytest.raises(ValueError, match=words):
        Sampler(precision="half")
    with pytest.raises(ValueError, match=words):
        DdsRepairer(precision="half")
