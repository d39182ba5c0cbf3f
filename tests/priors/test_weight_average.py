from __future__ import annotations

import pytest
import torch
from torch import nn

from diffnr_lightning.priors import WeightAverage


def line(weight: float, bias: float = 0.0) -> nn.Sequential:
    network = nn.Sequential(nn.Linear(1, 1))
    with torch.no_grad():
        network[0].weight.fill_(weight)
        network[0].bias.fill_(bias)
    return network


def set_weight(network: nn.Sequential, weight: float) -> None:
    with torch.no_grad():
        network[0].weight.fill_(weight)


def test_average_follows_the_recurrence():
    network = line(0.0)
    average = WeightAverage(network, decay=0.5)
    expected = 0.0
    for done, weight in enumerate([1.0, 3.0, -2.0, 7.0, 7.5, 8.0, 0.0, 1.0, 2.0, 4.0]):
        set_weight(network, weight)
        average.update(network)
        decay = min(0.5, (1 + done) / (10 + done))
        expected = decay * expected + (1 - decay) * weight
        with average.applied(network):
            assert network[0].weight.item() == pytest.approx(expected, rel=1e-5)
    assert int(average.updates) == 10


def test_the_last_updates_are_averaged_plainly():
    network = line(0.0)
    average = WeightAverage(network, decay=0.5, plain_after=3)
    weights = [1.0, 3.0, -2.0, 7.0, 7.5, 8.0, 0.0]
    for done, weight in enumerate(weights):
        set_weight(network, weight)
        average.update(network)
        if done >= 3:
            with average.applied(network):
                expected = sum(weights[3 : done + 1]) / (done - 2)
                assert network[0].weight.item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="plain_after is -1"):
        WeightAverage(network, plain_after=-1)


def test_an_update_does_not_read_the_device():
    """Nothing can be read from the device `meta`."""
    network = line(0.0).to("meta")
    average = WeightAverage(network).to("meta")
    average.update(network)
    average.update(network)


def test_a_resumed_average_goes_on_counting():
    weights = [1.0, 3.0, -2.0, 7.0, 7.5]
    network = line(0.0)
    whole, first, resumed = (WeightAverage(network, plain_after=3) for _ in range(3))
    for number, weight in enumerate(weights):
        set_weight(network, weight)
        whole.update(network)
        if number == 3:
            resumed.load_state_dict(first.state_dict())
        (first if number < 3 else resumed).update(network)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name])


def test_weights_that_stand_still_are_their_average():
    network = line(0.3, 0.7)
    average = WeightAverage(network, decay=0.999)
    for _ in range(5):
        average.update(network)
    with average.applied(network):
        assert network[0].bias.item() == pytest.approx(0.7)


def test_applied_restores_the_weights_even_after_an_error():
    network = line(1.0)
    average = WeightAverage(network)
    set_weight(network, 5.0)
    own = network[0].weight.data_ptr()
    with pytest.raises(RuntimeError, match="within"), average.applied(network):
        assert network(torch.ones(1, 1)).item() == 1.0
        raise RuntimeError("within")
    assert network(torch.ones(1, 1)).item() == 5.0
    assert network[0].weight.data_ptr() == own


def test_update_leaves_the_network_and_starts_from_its_own_copy():
    network = line(1.0)
    average = WeightAverage(network)
    set_weight(network, 2.0)
    average.update(network)
    assert network[0].weight.item() == 2.0
    assert network[0].weight.requires_grad


def test_frozen_weights_are_not_averaged():
    network = line(1.0)
    network[0].bias.requires_grad_(False)
    average = WeightAverage(network)
    assert set(average.state_dict()) == {"updates", "0/weight"}
    with torch.no_grad():
        network[0].bias.fill_(9.0)
    with average.applied(network):
        assert network[0].bias.item() == 9.0


def test_state_goes_through_a_checkpoint():
    network = line(0.0)
    average = WeightAverage(network, decay=0.9)
    for weight in (1.0, 2.0):
        set_weight(network, weight)
        average.update(network)
    again = WeightAverage(network, decay=0.9)
    again.load_state_dict(average.state_dict())
    for kept in (average, again):
        kept.update(network)
    for mine, theirs in zip(average.buffers(), again.buffers(), strict=True):
        assert torch.equal(mine, theirs)
    assert int(again.updates) == 3


def test_average_is_no_parameter():
    assert list(WeightAverage(line(1.0)).parameters()) == []


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_decay_is_checked(decay):
    with pytest.raises(ValueError, match=r"decay is .*expected a number in \[0, 1\)"):
        WeightAverage(line(1.0), decay)
