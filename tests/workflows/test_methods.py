import pytest

from diffnr_lightning.workflows.methods import Scene, Solver


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("sirt", {"iteration": 5}, "no option 'iteration'; it has iterations"),
        ("sirt", {"iterations": "many"}, "option iterations of solver sirt is 'many'"),
        ("sart", {"subsets": 1.5}, "option subsets of solver sart is 1.5"),
        ("analytic", {"filter": "wiener"}, "option filter of solver analytic is 'wiener'"),
        ("asd_pocs", {"progress": None}, "no option 'progress'"),
    ],
)
def test_options_that_a_solver_does_not_take(name, options, words):
    with pytest.raises(ValueError, match=words):
        Solver(name, options)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"iterations": 0}, "iterations is 0"), ({"finish": "repair"}, "no pseudo_reference")],
)
def test_scenes_that_make_no_sense(options, words):
    with pytest.raises(ValueError, match=words):
        Scene(**options)
