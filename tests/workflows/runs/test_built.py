"""What is built in Python is compared with the run that a folder holds, as settings are."""

import enum
import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from diffnr_lightning.callbacks import PseudoReference
from diffnr_lightning.cli import main
from diffnr_lightning.data.slice_pairs import SlicePairData, write_pairs
from diffnr_lightning.modules import SceneOptimization, SliceFixerFinetuning
from diffnr_lightning.priors import CompactDenoiser, DdsRepairer, save_denoiser
from diffnr_lightning.representations import VoxelGrid
from diffnr_lightning.workflows import finetune, reconstruct
from diffnr_lightning.workflows.methods.problem import Method
from diffnr_lightning.workflows.methods.scene import Scene
from diffnr_lightning.workflows.methods.solver import Solver
from diffnr_lightning.workflows.runs.built import FORMAT, UNKNOWN, built, is_known
from diffnr_lightning.workflows.runs.run_folder import RunFolder, difference


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    path = tmp_path_factory.mktemp("cases") / "case"
    size = ["--size", "16", "--num_views", "6", "--test_views", "0"]
    assert main(["simulate", "--volume", "ellipsoids:1", "--out", str(path), *size]) == 0
    return path


def scene(rate=0.5, **options):
    optimisation = functools.partial(SceneOptimization, rate_scale=rate)
    return Scene(VoxelGrid, optimisation, iterations=2, **options)


@pytest.mark.parametrize(
    ("other", "options", "named"),
    [
        (Solver("sirt"), {}, "built.method.name = 'fdk', not 'sirt'"),
        (Solver("fdk"), {"photons": 1e4}, "built.photons"),
        (Solver("fdk"), {"weights": "uniform"}, "built.weights"),
        (Solver("fdk"), {"surroundings": "ignore"}, "built.surroundings"),
        (Solver("fdk", {"cutoff": 0.5}), {}, "built.method.options"),
    ],
)
def test_a_run_of_another_method_is_refused(case, tmp_path, other, options, named):
    run = reconstruct(case, tmp_path / "run", Solver("fdk"))
    assert reconstruct(case, run, Solver("fdk")) == run
    with pytest.raises(ValueError, match="holds a run with") as error:
        reconstruct(case, run, other, **options)
    assert named in str(error.value)


def test_a_killed_scene_does_not_go_on_under_other_losses(case, tmp_path):
    run = reconstruct(case, tmp_path / "run", scene())
    (run / "metrics.json").unlink()
    with pytest.raises(ValueError, match=r"optimisation\.rate_scale = 0\.5, not 0\.25"):
        reconstruct(case, run, scene(0.25))
    assert (reconstruct(case, run, scene()) / "metrics.json").is_file()


def test_what_cannot_be_compared_is_refused_where_there_is_a_run(case, tmp_path):
    nameless = Scene(VoxelGrid, lambda *given: SceneOptimization(*given), iterations=2)
    run = reconstruct(case, tmp_path / "run", nameless)
    with pytest.raises(ValueError, match="cannot be known"):
        reconstruct(case, run, nameless)


def test_runs_of_earlier_versions_are_left_alone(case, tmp_path):
    run = reconstruct(case, tmp_path / "run", Solver("fdk"))
    config = run / "config.yaml"
    settings = yaml.safe_load(config.read_text())
    del settings["built"]
    config.write_text(yaml.safe_dump(settings))
    before = (run / "metrics.json").read_bytes()
    assert reconstruct(case, run, Solver("fdk")) == run
    assert (run / "metrics.json").read_bytes() == before


def test_a_finetuning_of_other_losses_is_refused(tmp_path):
    clean = torch.rand(2, 16, 16)
    about = {"biplanar": torch.rand(2, 16, 16), "info": {"case": "one", "views": 24}}
    write_pairs(tmp_path / "pairs", "one", degraded=clean[None] / 2, clean=clean, **about)

    def trained(rate=1e-3, flips=True):
        data = SlicePairData([tmp_path / "pairs"], 1, held_out_share=0, crop=16, flips=flips)
        module = lambda prior: SliceFixerFinetuning(prior, iterations=1, rate=rate)  # noqa: E731
        return finetune(tmp_path / "run", data, module=module, iterations=1, device="cpu")

    assert trained() == trained()
    with pytest.raises(ValueError, match=r"built\.module\.rate"):
        trained(rate=1e-4)
    with pytest.raises(ValueError, match=r"built\.data\.flips"):
        trained(flips=False)


def test_numbers_of_numpy_are_recorded(case, tmp_path):
    given = {"photons": np.float64(1e4), "variant": np.str_("new"), "seed": np.int64(3)}
    solver = Solver("fdk", {"cutoff": np.linspace(0.1, 1, 5)[2]})
    run = reconstruct(case, tmp_path / "run", solver, **given)
    assert reconstruct(case, run, Solver("fdk", {"cutoff": 0.55}), **given) == run


def test_what_has_served_before_is_described_as_before(tmp_path):
    about = {"biplanar": torch.rand(2, 16, 16), "info": {"case": "one", "views": 24}}
    clean = torch.rand(2, 16, 16)
    for place in ("here", "there"):
        write_pairs(tmp_path / place, "one", degraded=clean[None] / 2, clean=clean, **about)
    given = {"held_out_share": 0, "crop": 16, "shares": {"*": 1}}
    data = SlicePairData([tmp_path / "here"], 1, **given)
    before = built(data)
    data.setup("fit")
    assert built(data) == before
    assert built(SlicePairData([tmp_path / "there"], 1, **given)) == before
    reference = PseudoReference(None, every_share=0.5)
    before = built(reference)
    reference.adapt(100)
    reference.made, reference.first, reference.evaluations = 2, torch.ones(3), 4.0
    assert built(reference) == before != built(PseudoReference(None, every_share=0.4))


def test_an_argument_of_a_class_of_ones_own_counts(tmp_path):
    class Marked(SlicePairData):
        def __init__(self, *args, made, **shared):
            super().__init__(*args, **shared)
            self.made = made

    first, second, other = (Marked([tmp_path], 1, made=number, crop=16) for number in (1, 1, 2))
    assert built(first) == built(second) != built(other)
    assert built(first)["crop"] == 16 and "folders" not in built(first)


@dataclass
class OfFields(Method):
    """A method whose constructor is a dataclass's."""

    strength: float
    name = "of fields"

    def reconstruct(self, problem):
        return torch.zeros(problem.grid.shape)


def test_methods_of_other_fields_are_others():
    assert OfFields(1.0).built == OfFields(1.0).built != OfFields(2.0).built


def test_repairs_of_dds_in_another_precision_are_others(tmp_path):
    save_denoiser(tmp_path, CompactDenoiser(channels=1, widths=(8,), gaps=0))
    auto, single, half = (
        built(DdsRepairer(tmp_path, precision=precision))
        for precision in ("auto", "float32", "bfloat16")
    )
    assert single != half
    # Runs of earlier versions do not say it.
    before = {key: value for key, value in auto.items() if key != "precision"}
    assert difference(before, auto) is None


def test_functions_are_told_by_their_names():
    callables = (math.sqrt, torch.abs, Path.cwd, OfFields(1.0).reconstruct, print)
    assert all(is_known(built(thing)) for thing in callables)
    assert built(OfFields(1.0).reconstruct) != built(OfFields(2.0).reconstruct)
    assert built(math.sqrt) == "math.sqrt"
    assert built([].append) == UNKNOWN


class Mine(Method):
    """A method without a constructor."""

    name = "mine"

    def reconstruct(self, problem):
        return torch.zeros(problem.grid.shape)


def test_what_a_method_found_is_no_part_of_how_it_was_built():
    one, other = Mine(), Mine()
    other.findings = {"psnr": 3.0}
    assert one.built == other.built
    assert one.built["class"] == "Mine"


def test_descriptions_are_plain_and_tell_things_apart():
    cloud = {"cut": range(3), "part": functools.partial(max, key=abs), "at": {2, 1}}
    described = built({**cloud, "array": torch.arange(3), "number": torch.tensor(2.5)})
    assert json.loads(json.dumps(described)) == described
    assert described["number"] == 2.5 and described["at"] == [1, 2]
    assert described["array"] != built(torch.arange(1, 4))
    assert built(torch.ones(2).bfloat16()) != built(torch.ones(2))
    assert built(np.arange(3)) == built(np.arange(6)[:3]) != built(np.arange(3)[::-1])
    assert not is_known(built([lambda: 3]))
    assert built(test_descriptions_are_plain_and_tell_things_apart) != UNKNOWN
    turning = [1]
    turning.append(turning)
    assert built(turning) == [1, "list"]


class Mode(enum.Enum):
    A, B = "a", "b"


class Hidden:
    """Keeps its state from the eyes of others."""

    def __init__(self, width):
        self._width = width


def test_what_has_nothing_public_is_told_apart_nevertheless():
    assert built(Mode.A) == built(Mode.A) != built(Mode.B)
    assert built(Hidden(1)) == built(Hidden(1)) != built(Hidden(2))
    for value in (range(0, 9, 3), slice(1, 4), 1j, b"ab", torch.float16, torch.device("cpu")):
        assert is_known(built(value)) and yaml.safe_load(yaml.safe_dump(built(value)))
    assert built(range(3)) != built(range(4))
    assert built(torch.float16) != built(torch.bfloat16)
    assert built(np.dtype("f4")) != built(np.dtype("f8"))


def test_a_run_of_an_earlier_version_binds_by_what_it_tells(tmp_path):
    def folder(**told):
        return RunFolder(tmp_path / "run", {"built": told})

    before = folder(method={"class": "Mine", "mode": {"class": "Mode"}, "data": [{"rate": 1}]})
    before.open()
    before.checkpoint.touch()
    now = {"class": "Mine", "mode": built(Mode.A), "data": [{"rate": 1, "size": 3}]}
    folder(**FORMAT, method=now).open()
    with pytest.raises(ValueError, match=r"built\.method\.data\.0\.rate = 1, not 2"):
        folder(**FORMAT, method={**now, "data": [{"rate": 2}]}).open()


def test_a_run_of_this_version_binds_by_what_it_does_not_tell(case, tmp_path):
    run = reconstruct(case, tmp_path / "run", Solver("fdk"))
    with pytest.raises(ValueError, match=r"built\.method\.options\.cutoff = nothing, not 0\.5"):
        reconstruct(case, run, Solver("fdk", {"cutoff": 0.5}))
