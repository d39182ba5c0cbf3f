from __future__ import annotations

import pytest
import torch

from diffnr_lightning.priors import CompactSliceFixer, Conditioning, Prior


def small(**changed) -> CompactSliceFixer:
    torch.manual_seed(0)
    return CompactSliceFixer(**{"channels": (8, 16), "embedding": 16, **changed})


def told(slices: int, seed: int = 0, **changed) -> Conditioning:
    generator = torch.Generator().manual_seed(seed)
    fields = {
        "biplanar": torch.rand(slices, 2, 16, 16, generator=generator),
        "plane": torch.arange(slices) % 3,
        "position": torch.linspace(-1, 1, slices),
        "views": torch.full((slices,), 24.0),
    }
    return Conditioning(**{**fields, **changed})


def after_a_step(network: CompactSliceFixer) -> CompactSliceFixer:
    """The network after one optimiser step; its last layer no longer holds zeros."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):
        # The second pass reaches what the zeros of the last layer hid from the first.
        optimizer.zero_grad()
        (network(torch.rand(3, 3, 16, 16), told(3)) - 2).square().mean().backward()
        optimizer.step()
    return network


def test_looks_at_the_residual_only_if_that_is_wanted():
    slices, residual = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    for network, looks in ((small(), False), (small(residual=True), True)):
        after_a_step(network)
        unknown = network.repair(slices, told(2))
        shown = network.repair(slices, told(2, residual=residual))
        assert torch.equal(shown, unknown) != looks


def test_looks_at_the_noise_only_if_that_is_wanted():
    slices, noise = torch.rand(2, 3, 16, 16), 0.1 * torch.rand(2, 1, 16, 16)
    for network, looks in ((small(residual=True), False), (small(residual=True, noise=True), True)):
        after_a_step(network)
        unknown = network.repair(slices, told(2))
        shown = network.repair(slices, told(2, noise=noise))
        assert torch.equal(shown, unknown) != looks


def test_the_level_of_the_noise_is_told_beside_its_map():
    encoder = small(noise=True).encoder
    levels = [torch.full((1, 1, 8, 8), level) for level in (0.0, 1e-3, 0.02, 0.04)]
    known = [encoder(told(1, noise=level)) for level in levels]
    assert all(not torch.allclose(a, b) for a in known for b in known if a is not b)
    assert all(torch.isfinite(each).all() for each in known)


@pytest.mark.parametrize("order", [("residual", "noise"), ("noise", "residual"), ("noise",)])
def test_before_training_attention_to_the_noise_changes_nothing(order):
    network = after_a_step(small())
    slices, given = torch.rand(2, 3, 16, 16), told(2, residual=torch.rand(2, 3, 16, 16))
    given = given._replace(noise=torch.rand(2, 1, 16, 16))
    before = wide = network
    for name in order:
        wide = getattr(wide, f"with_{name}")()
        torch.testing.assert_close(wide.repair(slices, given), before.repair(slices, given))
        # What was learned before another input is added stays as it is.
        before = wide = after_a_step(wide)
    assert wide.noise and (wide.residual == ("residual" in order))
    again = CompactSliceFixer(**wide.architecture)
    again.load_state_dict(wide.state_dict())


def test_further_inputs_leave_a_class_of_ones_own_as_it_is():
    class Halved(CompactSliceFixer):
        def forward(self, slices, conditioning):
            return 0.5 * super().forward(slices, conditioning)

    own = Halved(channels=(8, 16), embedding=16)
    slices, given = torch.rand(2, 3, 16, 16), told(2)
    wide = own.with_residual().with_noise()
    torch.testing.assert_close(wide.repair(slices, given), own.repair(slices, given))


def test_looks_at_the_projections_unless_that_is_not_wanted():
    slices, given = torch.rand(2, 3, 16, 16), told(2)
    for network, looks in ((small(), True), (small(biplanar=False), False)):
        after_a_step(network)
        hidden = given._replace(biplanar=torch.zeros_like(given.biplanar))
        repairs = [network.repair(slices, each) for each in (given, hidden)]
        assert torch.equal(*repairs) != looks


def test_before_training_attention_to_the_residual_changes_nothing():
    network = after_a_step(small())
    slices, given = torch.rand(2, 3, 16, 16), told(2, residual=torch.rand(2, 3, 16, 16))
    wide = network.with_residual()
    assert wide.residual and not network.residual
    torch.testing.assert_close(wide.repair(slices, given), network.repair(slices, given))


@pytest.mark.parametrize("shape", [(16, 16), (15, 22), (1, 7), (33, 8)])
@pytest.mark.parametrize("context", [0, 2])
def test_is_the_identity_before_training_at_any_size(shape, context):
    slices = torch.rand(2, 2 * context + 1, *shape)
    network = small(context=context)
    assert torch.equal(network(slices, told(2)), slices[:, context])
    assert torch.equal(network.repair(slices, told(2)), slices[:, context])


def test_keeps_its_size_and_range_once_it_corrects():
    network = after_a_step(small())
    slices = torch.rand(2, 3, 15, 22)
    repaired = network.repair(slices, told(2))
    assert repaired.shape == (2, 15, 22)
    assert not torch.equal(repaired, slices[:, 1])
    assert repaired.min() >= 0 and repaired.max() <= 1
    assert network(slices * 5, told(2)).max() > 1  # forward does not clip, repair does
    assert network.repair(slices * 5, told(2)).max() == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"biplanar": torch.ones(1, 2, 16, 16)},
        {"plane": torch.tensor([2])},
        {"position": torch.tensor([0.3])},
        {"views": torch.tensor([48.0])},
        {"views": torch.tensor([0.0])},
    ],
    ids=["biplanar", "plane", "position", "views", "unknown views"],
)
def test_every_part_of_the_conditioning_changes_the_repair(changed):
    network = after_a_step(small()).eval()
    slices = torch.rand(1, 3, 16, 16)
    as_told = network(slices, told(1))
    assert not torch.allclose(network(slices, told(1, **changed)), as_told, atol=1e-7)


def test_unknown_views_are_not_taken_for_some_number_of_views():
    """0 is a flag: the middle of the range, which maps to 0 as well, stays distinguishable."""
    encoder = small().encoder
    known, unknown = (encoder(told(1, views=torch.tensor([v]))) for v in (24.0, 0.0))
    assert not torch.allclose(known, unknown)


def test_neighbouring_slices_change_the_repair_and_slices_of_a_batch_do_not():
    network = after_a_step(small()).eval()
    slices = torch.rand(2, 3, 16, 16)
    whole = network(slices, told(2))
    moved = slices.clone()
    moved[0, 0] = 0
    changed = network(moved, told(2))
    assert not torch.allclose(changed[0], whole[0], atol=1e-7)
    torch.testing.assert_close(changed[1], whole[1])


def test_a_conditioning_shared_by_all_slices_equals_its_copies():
    network = after_a_step(small()).eval()
    slices = torch.rand(3, 3, 16, 16)
    one = told(1, plane=torch.tensor([1]), position=torch.tensor([0.2]))
    copies = Conditioning(*(field.expand(3, *field.shape[1:]) for field in one))
    mixed = one._replace(position=copies.position)
    torch.testing.assert_close(network(slices, one), network(slices, copies))
    torch.testing.assert_close(network(slices, mixed), network(slices, copies))


def test_gradient_reaches_every_parameter_and_the_input():
    network = after_a_step(small(blocks=2))
    network.zero_grad()
    slices = torch.rand(3, 3, 16, 16, requires_grad=True)
    network(slices, told(3)).square().sum().backward()
    missed = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert missed == []
    assert slices.grad.any()


def test_fine_detail_does_not_have_to_pass_the_coarse_levels():
    network = after_a_step(small()).eval()
    with torch.no_grad():
        for layer in network.grow:
            layer.weight.zero_()
    slices = torch.rand(1, 3, 16, 16)
    moved = slices.clone()
    moved[0, 0, 5, 5] += 0.5  # in a neighbour, so that the residual does not carry it
    changed = network(moved, told(1)) - network(slices, told(1))
    assert changed[0, 4:7, 4:7].abs().max() > 1e-6


def test_default_network_fits_in_the_package():
    weights = sum(p.numel() for p in CompactSliceFixer().parameters())
    assert 1e6 < weights < 8e6  # 16 MB in float16


@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (2, 5, 16, 16), (3, 16, 16)])
def test_another_number_of_channels_is_refused(shape):
    with pytest.raises(ValueError, match=r"slices has shape .*expects \(N, 3, H, W\)"):
        small()(torch.rand(shape), told(2))


@pytest.mark.parametrize(
    "wrong", [{"context": -1}, {"channels": (8, 12)}, {"channels": ()}, {"blocks": 0}]
)
def test_architectures_that_cannot_be_built_are_refused(wrong):
    with pytest.raises(ValueError, match="CompactSliceFixer got .*; expected"):
        small(**wrong)


def test_is_a_prior_and_is_rebuilt_from_its_architecture():
    network = small(context=2, blocks=2)
    assert isinstance(network, Prior)
    again = CompactSliceFixer(**network.architecture)
    assert {n: p.shape for n, p in again.named_parameters()} == {
        n: p.shape for n, p in network.named_parameters()
    }
