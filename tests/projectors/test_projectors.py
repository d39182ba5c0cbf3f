"""Which backend is chosen, what it takes and what it refuses."""

import gc
import logging
import weakref

import pytest
import torch
from operators import random_pair

from diffnr_lightning import projectors
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid
from diffnr_lightning.projectors import (
    BACKENDS,
    backproject,
    choose_backend,
    lay_out,
    project,
    weighted_backproject,
)


@pytest.mark.parametrize("backend", ["separable", "rays"])
def test_results_do_not_depend_on_threads_or_repetition(backend, circle):
    numba = pytest.importorskip("numba")
    grid, scan = circle
    volume, measured = random_pair(grid, scan)
    before = numba.get_num_threads()
    results = []
    for threads in (1, before, before):
        numba.set_num_threads(threads)
        results.append(
            (project(volume, grid, scan, backend), backproject(measured, grid, scan, backend))
        )
    numba.set_num_threads(before)
    for forward, back in results[1:]:
        assert torch.equal(forward, results[0][0])
        assert torch.equal(back, results[0][1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_in_the_volume_reaches_the_projections(backend, circle):
    grid, scan = circle
    volume = torch.zeros(grid.shape)
    volume[10, 11, 12] = torch.nan
    assert torch.isnan(project(volume, grid, scan, backend)).any()


@pytest.mark.parametrize("backend", ["separable", "rays"])
def test_strided_input_is_read_as_it_is(backend, circle):
    grid, scan = circle
    volume, measured = random_pair(grid, scan)
    strided = volume.transpose(0, 2).contiguous().transpose(0, 2)
    torch.testing.assert_close(
        project(strided, grid, scan, backend), project(volume, grid, scan, backend)
    )
    strided = measured.transpose(0, 1).contiguous().transpose(0, 1)
    kept = strided.clone()
    torch.testing.assert_close(
        backproject(strided, grid, scan, backend), backproject(measured, grid, scan, backend)
    )
    assert torch.equal(strided, kept)


def test_a_volume_that_is_laid_out_is_the_same_volume(circle):
    grid, scan = circle
    volume, measured = random_pair(grid, scan)
    laid_out = lay_out(volume, grid, scan)
    assert laid_out.stride(0) == 1 and torch.equal(laid_out, volume)
    assert torch.equal(project(laid_out, grid, scan), project(volume, grid, scan))
    back, laid_out = (backproject(measured, grid, scan, laid_out=order) for order in (False, True))
    assert back.is_contiguous()
    assert laid_out.stride(0) == 1 and torch.equal(laid_out, back)
    assert lay_out(laid_out, grid, scan).data_ptr() == laid_out.data_ptr()


@pytest.mark.parametrize("backend", ["rays", "reference"])
def test_other_backends_lay_volumes_out_contiguous(backend, circle):
    grid, scan = circle
    _, measured = random_pair(grid, scan)
    assert backproject(measured, grid, scan, backend, laid_out=True).is_contiguous()


def test_gradients_flow_through_what_is_laid_out(circle):
    grid, scan = circle
    volume, measured = random_pair(grid, scan)
    measured.requires_grad_()
    (gradient,) = torch.autograd.grad(
        (volume * backproject(measured, grid, scan, laid_out=True)).sum(), measured
    )
    torch.testing.assert_close(gradient, project(volume, grid, scan))


def test_backend_follows_scan_and_device(circle, monkeypatch):
    grid, scan = circle
    assert choose_backend(grid, scan, "cpu") == "separable"
    for installed, backend in ((True, "separable"), (False, "reference")):
        monkeypatch.setattr(projectors, "takes_triton", lambda where, here=installed: here)
        assert choose_backend(grid, scan, "cuda") == backend
        assert choose_backend(grid, scan, "cuda", torch.float64) == "reference"
    monkeypatch.undo()
    tilted = ScanGeometry(
        "cone",
        scan.detector_shape,
        scan.source_mm,
        scan.detector_mm,
        scan.u_mm,
        scan.v_mm + 0.1 * scan.u_mm,
    )
    assert choose_backend(grid, tilted, "cpu") == "rays"
    # Rays climb more than one of these thin slices per voxel: x or y is not their main axis.
    thin = VolumeGrid((200, 20, 20), (0.1, 1.0, 1.0))
    assert choose_backend(thin, scan, "cpu") == "rays"


@pytest.mark.parametrize("tilt", [0.0, 0.1])
def test_double_precision_is_kept_without_naming_a_backend(tilt):
    grid = VolumeGrid((3, 4, 5), 2.0)
    scan = ScanGeometry.cone(
        angles_rad=[0.2, 1.9],
        source_to_axis_mm=30.0,
        source_to_detector_mm=45.0,
        detector_shape=(4, 3),
        pixel_mm=4.0,
    )
    scan = ScanGeometry(
        "cone",
        scan.detector_shape,
        scan.source_mm,
        scan.detector_mm,
        scan.u_mm,
        scan.v_mm + tilt * scan.u_mm,
    )
    assert choose_backend(grid, scan, "cpu", torch.float64) == "reference"
    volume, measured = (t.double().requires_grad_() for t in random_pair(grid, scan))
    assert torch.autograd.gradcheck(lambda v: project(v, grid, scan), volume)
    assert torch.autograd.gradcheck(lambda p: backproject(p, grid, scan), measured)
    forward, back = project(volume, grid, scan), backproject(measured, grid, scan)
    assert forward.dtype == back.dtype == torch.float64
    pairing = ((forward * measured).sum() - (volume * back).sum()).detach()
    assert abs(float(pairing)) < 1e-12 * float((forward * measured).sum().detach())


def test_choice_is_logged_once(caplog, circle, monkeypatch):
    monkeypatch.setattr(projectors, "_ANNOUNCED", set())
    with caplog.at_level(logging.INFO, logger="diffnr"):
        for _ in range(3):
            choose_backend(*circle, "cpu")
    assert [r.getMessage() for r in caplog.records] == [
        "projector: separable (cone beam, rows along z, cpu)"
    ]


def test_wrong_input_is_refused_in_one_sentence(circle):
    grid, scan = circle
    volume, measured = random_pair(grid, scan)
    with pytest.raises(ValueError, match=r"volume has shape \(3, 3, 3\); \(20, 22, 24\)"):
        project(torch.ones(3, 3, 3), grid, scan)
    with pytest.raises(ValueError, match="projections has shape"):
        backproject(measured[:2], grid, scan)
    with pytest.raises(ValueError, match="backend is 'nothing'"):
        project(volume, grid, scan, "nothing")
    with pytest.raises(TypeError, match="computes in float32"):
        project(volume.double(), grid, scan, "separable")
    with pytest.raises(TypeError, match="torch tensor is expected"):
        project(volume.numpy(), grid, scan)
    with pytest.raises(TypeError, match="floating dtype"):
        project(volume.int(), grid, scan)
    with pytest.raises(ValueError, match=r"weight has shape \(2,\)"):
        weighted_backproject(measured, grid, scan, weight=[1.0, 2.0])
    with pytest.raises(ValueError, match="runs on the CPU"):
        project(volume.to("meta"), grid, scan, "separable")


def test_warmup_compiles_every_kernel():
    projectors.warmup()
    assert projectors.separable._project.signatures
    assert projectors.separable._backproject.signatures
    assert projectors.voxel_driven._weighted_backproject.signatures
    assert projectors.voxel_driven._backproject_posed.signatures
    assert projectors.rays._project.signatures
    assert projectors.rays._backproject.signatures


def test_a_scan_that_is_no_longer_used_is_forgotten(circle):
    """What kernels keep on a GPU for a scan goes with it."""
    grid, scan = circle
    used = scan[:]
    backproject(project(torch.ones(grid.shape), grid, used), grid, used)
    alive = weakref.ref(used)
    del used
    gc.collect()
    assert alive() is None
