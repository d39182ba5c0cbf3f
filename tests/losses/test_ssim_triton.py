"""Triton's structural similarity against the torch reference, in the interpreter or on a GPU."""

import pytest
import torch

from diffnr_lightning.losses import SsimReference, ssim_2d, ssim_2d_reference, ssim_3d

ssim_triton = pytest.importorskip("diffnr_lightning.losses.ssim_triton")


def pair(*shape):
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(shape, generator=generator)
    return reference + 0.2 * (torch.rand(shape, generator=generator) - 0.5), reference


def hollow_pair():
    prediction, reference = pair(2, 3, 12)
    reference[:1] = 0
    reference[:, 2] = 0
    reference[:, :, [4, 11]] = 0
    return prediction, reference


def assert_close(value, gradient, oracle, expected):
    assert (value.double().cpu() - oracle).abs().max() < 1e-5
    assert (gradient.double().cpu() - expected).norm() < 1e-4 * expected.norm()


@pytest.fixture(autouse=True)
def few_programs(triton_device, monkeypatch):
    """The interpreter takes as long for one pixel as for a hundred, so programs are made large."""
    if triton_device == "cpu":
        monkeypatch.setattr(ssim_triton._Plane, "tile", (4, 16))


def test_slices_equal_the_reference(triton_device, monkeypatch):
    """The second segment of the rows holds one."""
    monkeypatch.setattr(ssim_triton, "_SEGMENTS", (4, 4))
    prediction, reference = pair(2, 5, 9)
    ours = prediction.to(triton_device, copy=True).requires_grad_()
    theirs = prediction.double().requires_grad_()
    value = ssim_triton.slice_similarity(ours, reference.to(triton_device), 1.5)
    oracle = ssim_2d_reference(theirs, reference.double(), 1.5)
    weights = torch.arange(1.0, len(prediction) + 1)
    (value * weights.to(triton_device)).sum().backward()
    (oracle * weights).sum().backward()
    assert_close(value, ours.grad, oracle, theirs.grad)


def test_no_slice_has_no_similarity(triton_device):
    none = torch.zeros(0, 5, 9, device=triton_device, requires_grad=True)
    similarity = ssim_triton.slice_similarity(none, none.detach())
    assert similarity.shape == (0,)
    similarity.sum().backward()
    assert none.grad.shape == none.shape


def test_volumes_equal_the_reference_slab_by_slab(triton_device, monkeypatch):
    monkeypatch.setattr(ssim_triton, "_SLAB", 1)
    monkeypatch.setattr(ssim_triton, "_LEAST", 8)
    prediction, reference = hollow_pair()
    ours = prediction.to(triton_device, copy=True).requires_grad_()
    theirs = prediction.double().requires_grad_()
    prepared = SsimReference(reference.to(triton_device))
    value = ssim_triton.volume_similarity(ours, prepared.volume, prepared.slices_on_device)
    oracle = ssim_3d(theirs, reference.double())
    value.backward()
    oracle.backward()
    assert_close(value, ours.grad, oracle, theirs.grad)


def test_no_gradient_no_slopes(triton_device):
    prediction, reference = (volume.to(triton_device) for volume in pair(1, 1, 1))
    value = ssim_triton.slice_similarity(prediction, reference)
    assert not value.requires_grad
    assert (value - ssim_2d_reference(prediction, reference)).abs() < 1e-5


@pytest.mark.gpu
def test_the_kernels_are_taken_on_a_gpu_and_repeat_to_the_bit():
    prediction, reference = (volume.cuda() for volume in pair(40, 70, 150))
    found = []
    for _ in range(2):
        leaf = prediction.clone().requires_grad_()
        value = ssim_2d(leaf, reference).mean() + ssim_3d(leaf, SsimReference(reference))
        value.backward()
        found.append((value.detach(), leaf.grad))
    assert ssim_2d(leaf, reference).grad_fn.name().startswith("_SliceSimilarity")
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
