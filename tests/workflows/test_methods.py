import json

import lightning
import pytest
import torch

from diffnr_lightning import solvers
from diffnr_lightning.data import RaySampling, ScanRecipe
from diffnr_lightning.geometry import ScanGeometry, VolumeGrid, uniform_angles
from diffnr_lightning.photons import PhotonCounts
from diffnr_lightning.projectors import project
from diffnr_lightning.representations import VoxelGrid
from diffnr_lightning.workflows import Method, Problem, Scene, Solver, reconstruct, simulate


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("sirt", {"iteration": 5}, "no option 'iteration'; it has iterations"),
        ("sirt", {"iterations": "many"}, "option iterations of solver sirt is 'many'"),
        (
            "sart",
            {"subsets": 1.5},
            "option subsets of solver sart is '1.5'; int or null is expected",
        ),
        ("analytic", {"filter": "wiener"}, "option filter of solver analytic is 'wiener'"),
        ("asd_pocs", {"progress": None}, "no option 'progress'"),
        ("sirt", {"weights": None}, "no option 'weights'"),
    ],
)
def test_options_that_a_solver_does_not_take(name, options, words):
    with pytest.raises(ValueError, match=words):
        Solver(name, options)


def constant(projections, grid, scan, value: float = 1.0):
    """A solver of the user's own."""
    return torch.full(grid.shape, value)


def test_a_solver_of_the_users_own_is_named_by_its_path():
    solver = Solver(f"{__name__}.constant", {"value": 2.0})
    grid = VolumeGrid((4, 4, 4), 1.0)
    volume = solver.reconstruct(Problem(torch.zeros(2, 4, 4), None, grid))
    assert solver.name == "constant"
    assert torch.equal(volume, torch.full((4, 4, 4), 2.0))
    with pytest.raises(ValueError, match=r"constant has no option 'factor'; it has value"):
        Solver(f"{__name__}.constant", {"factor": 2.0})


class Empty(Method):
    """A method of the user's own that says nothing of itself."""

    def reconstruct(self, problem):
        return torch.zeros(problem.grid.shape)


def test_a_method_of_the_users_own_need_not_say_name_and_findings(tmp_path):
    case = simulate("phantom:1", tmp_path / "case", ScanRecipe(size=16, num_views=4))
    run = reconstruct(case, tmp_path / "run", Empty())
    assert json.loads((run / "metrics.json").read_text())["method"] == "Empty"


def counted(projections, grid, scan, photons, weights=None):
    """A solver of the user's own that asks for what a problem has beside the projections."""
    return weights.mean() * photons.counts.mean().expand(grid.shape)


def test_solvers_are_given_weights_and_photons_where_they_ask_for_them():
    projections = torch.ones(2, 4, 4)
    photons = PhotonCounts.assumed(0.0 * projections, 100.0)
    problem = Problem(
        projections, None, VolumeGrid((4, 4, 4), 1.0), photons=photons, weights=3.0 * projections
    )
    volume = Solver(f"{__name__}.counted").reconstruct(problem)
    assert torch.equal(volume, torch.full((4, 4, 4), 300.0))
    assert torch.equal(Solver(f"{__name__}.constant").reconstruct(problem), torch.ones(4, 4, 4))


@pytest.mark.parametrize(
    "name", ["sirt", "sart", "asd_pocs", "weighted_tv", "cgls", "fista_tv", "sbtv", "mbir"]
)
def test_classical_solvers_use_the_weights_of_a_problem(name):
    grid = VolumeGrid((4, 4, 4), 1.0)
    scan = ScanGeometry.parallel(
        angles_rad=uniform_angles(4, 180), detector_shape=(4, 6), pixel_mm=1.0
    )
    projections = torch.rand(4, 4, 6, generator=torch.Generator().manual_seed(0))
    weights = projections + 0.1
    plain, weighted, direct = (
        Solver(name, {"iterations": 1}).reconstruct(Problem(projections, scan, grid)),
        Solver(name, {"iterations": 1}).reconstruct(
            Problem(projections, scan, grid, weights=weights)
        ),
        getattr(solvers, name)(projections, grid, scan, iterations=1, weights=weights),
    )
    assert torch.equal(weighted, direct)
    assert not torch.allclose(weighted, plain)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "sert",
            "'sert' is no solver; one of analytic, .*sirt, .* is expected, or the import path",
        ),
        ("", "'' is no solver"),
        ("total_variation", "is no solver"),
        ("backprojected_residual", "is no solver"),
        ("surroundings", "is no solver; one of .*sirt, weighted_tv is expected"),
        ("no_such_package.solver", "cannot be imported: No module named 'no_such_package'"),
        ("math.tau", "is no solver"),
    ],
)
def test_what_is_no_solver_is_refused(name, words):
    with pytest.raises(ValueError, match=words):
        Solver(name)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"iterations": 0}, "iterations is 0"),
        ({"views": 0}, "views is 0"),
        ({"finish": "repair"}, "no pseudo_reference"),
        ({"finish": "settle"}, "no pseudo_reference"),
    ],
)
def test_scenes_that_make_no_sense(options, words):
    with pytest.raises(ValueError, match=words):
        Scene(**options)


class Seen(lightning.Callback):
    """Note which views each batch looks at, and how large their windows are."""

    def __init__(self):
        self.views, self.shapes = [], set()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.views.append(sorted(batch.view.tolist()))
        self.shapes.add(tuple(batch.projection.shape))


@pytest.mark.parametrize(("views", "seen"), [(1, 1), (3, 3), (50, 6)])
def test_a_batch_looks_at_as_many_views_as_wanted(views, seen):
    grid = VolumeGrid((8, 8, 8), 1.0)
    scan = ScanGeometry.cone(
        angles_rad=uniform_angles(6),
        source_to_axis_mm=40.0,
        source_to_detector_mm=60.0,
        detector_shape=(12, 12),
        pixel_mm=1.5,
    )
    watch = Seen()
    problem = Problem(
        project(torch.ones(grid.shape), grid, scan), scan, grid, 0, callbacks=(watch,)
    )
    scene = Scene(VoxelGrid, iterations=4, views=views, rays=RaySampling(rows=4, columns=3))
    scene.fit(problem)
    assert watch.shapes == {(seen, 4, 3)}
    assert all(len(set(numbers)) == seen for numbers in watch.views)
    assert len({view for numbers in watch.views for view in numbers}) == min(6, 4 * seen)
