"""Triton's hash encoding and network against the torch reference, in the interpreter or on a GPU."""

import pytest
import torch

from diffnr_lightning.geometry import VolumeGrid
from diffnr_lightning.representations import HashEncoding, NeuralField
from diffnr_lightning.representations.fields.hash_encoding import encode_reference
from diffnr_lightning.representations.fields.network_kernels import network_reference

hash_triton = pytest.importorskip("diffnr_lightning.representations.fields.hash_triton")
network_triton = pytest.importorskip("diffnr_lightning.representations.fields.network_triton")


def places(count):
    points = 2.2 * torch.rand(count, 3, generator=torch.Generator().manual_seed(1)) - 1.1
    points[:2] = torch.tensor([[1.0, 1, 1], [-1, -1, -1]])
    return points


def encoding(**options):
    torch.manual_seed(3)
    made = HashEncoding(**{"levels": 3, "base": 5, "growth": 2.0, "table": 9, **options})
    with torch.no_grad():
        made.table.mul_(1e4)  # to the order of one
    assert {level.hashed for level in made.layout} == {False, True}
    return made


@pytest.mark.parametrize("features", [2, 4])
def test_features_and_gradients_equal_the_reference(features, triton_device):
    made, points = encoding(features=features), places(300)
    weights = torch.randn(made.width, 300, generator=torch.Generator().manual_seed(2))
    ours = made.table.detach().to(triton_device, copy=True).requires_grad_()
    theirs = made.table.detach().double().requires_grad_()
    rows = hash_triton.encode(points.to(triton_device), ours, made.layout)
    oracle = encode_reference(points.double(), theirs, made.layout).T
    (rows * weights.to(triton_device)).sum().backward()
    (oracle * weights).sum().backward()
    torch.testing.assert_close(rows.double().cpu(), oracle, rtol=0, atol=1e-5)
    assert (ours.grad.double().cpu() - theirs.grad).norm() < 1e-5 * theirs.grad.norm()


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_gradients_keep_their_size_and_say_where_they_are_broken(triton_device):
    made, points = encoding(levels=2), places(40).to(triton_device)
    table = made.table.detach().to(triton_device)
    found = []
    for factor in (1.0, 2.0**-70, 2.0**60, float("nan")):
        leaf = table.clone().requires_grad_()
        (hash_triton.encode(points, leaf, made.layout) * factor).sum().backward()
        found.append(leaf.grad / factor)
    assert torch.equal(found[0], found[2])
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)
    assert found[3].isnan().all()


def test_points_are_kept_where_a_checkpoint_drops_them(triton_device):
    """As what autograd saves; what lies beside it stays through the way there."""
    made, points, kept = encoding(), places(300).to(triton_device), []
    table = made.table.detach().to(triton_device).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        hash_triton.encode(points, table, made.layout)
    assert [t.shape for t in kept] == [points.shape]


def test_no_points_are_no_trouble(triton_device):
    made = encoding()
    table = made.table.detach().to(triton_device).requires_grad_()
    rows = hash_triton.encode(torch.empty(0, 3, device=triton_device), table, made.layout)
    assert rows.shape == (6, 0)
    rows.sum().backward()
    assert not table.grad.any()


@pytest.mark.parametrize(("features", "width", "count"), [(8, 20, 70), (32, 32, 1)])
def test_the_network_equals_the_reference(features, width, count, triton_device, monkeypatch):
    monkeypatch.setattr(network_triton, "_CHUNK", 64)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(features, count, generator=generator)]
    for shape in ((width, features), (width, width), (width, width + features), (1, width)):
        inputs.append(torch.randn(shape, generator=generator) / shape[1] ** 0.5)
        inputs.append(0.1 * torch.randn(shape[0], generator=generator))
    ours = [tensor.to(triton_device, copy=True).requires_grad_() for tensor in inputs]
    theirs = [tensor.double().requires_grad_() for tensor in inputs]
    out, oracle = network_triton.network(*ours), network_reference(*theirs)
    out.sum().backward()
    oracle.sum().backward()
    torch.testing.assert_close(out.double().cpu(), oracle, rtol=1e-5, atol=1e-5)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.grad.double().cpu() - other.grad).norm() < 1e-4 * other.grad.norm()


@pytest.mark.gpu
def test_a_field_on_a_gpu_takes_them_and_repeats_to_the_bit():
    field = NeuralField(VolumeGrid((8, 8, 8), 1.0)).cuda()
    points = places(100_000).cuda()
    assert field.encoding.choose(points) == "triton"
    found = []
    for _ in range(2):
        field.zero_grad()
        field.field(points.view(1000, 100, 3)).square().sum().backward()
        found.append([parameter.grad for parameter in field.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
