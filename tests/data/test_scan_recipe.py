from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
import yaml

from diffnr_lightning.data import Noise, Scanner, ScanRecipe, read_case, simulate_case, write_case
from diffnr_lightning.data.scan_recipe import simulation_record

OTHER = {
    "size": 24,
    "num_views": 9,
    "fit": "body",
    "voxel_mm": 1.5,
    "margin": 0.1,
    "layout": "random",
    "arc_deg": 200.0,
    "start_deg": 3.0,
    "window_hu": (-1000.0, 3000.0),
    "unit": "HU",
    "spacing_mm": (2.0, 1.0, 1.0),
    "scanner": Scanner(source_to_axis=3.0),
    "noise": Noise(photons=1e4),
    "test_views": 2,
    "oversampling": 1,
    "attenuate_outside": False,
}


def test_a_description_survives_json_and_yaml():
    for recipe in (ScanRecipe(), ScanRecipe(**OTHER)):
        described = recipe.describe()
        assert json.loads(json.dumps(described)) == described
        assert yaml.safe_load(yaml.safe_dump(described)) == described


def test_every_setting_makes_another_description():
    assert {*OTHER, "slices"} == {field.name for field in fields(ScanRecipe)}
    standard = ScanRecipe()
    for key, value in OTHER.items():
        assert replace(standard, **{key: value}).describe() != standard.describe(), key
    inner = replace(standard, attenuate_outside=False)
    assert replace(inner, slices=8).describe() != inner.describe()


def test_columns_that_follow_from_the_size_are_described():
    """A case of a version with another rule is not taken for the same."""
    assert ScanRecipe().describe()["scanner"]["detector_pixels"] is None
    parallel = ScanRecipe(16, scanner=Scanner("parallel"))
    assert parallel.describe()["scanner"]["detector_pixels"] == 24


def test_a_case_says_what_was_asked_for(ellipsoid, tmp_path):
    loaded = ellipsoid((20, 15, 12)).loaded((24, 28, 32), (2.0, 2.0, 2.0))
    recipe = ScanRecipe(size=16, num_views=4, test_views=0, noise=Noise(photons=1e4))
    case = read_case(write_case(simulate_case(loaded, recipe), tmp_path / "case"))
    assert case.provenance["simulation"] == simulation_record(recipe, loaded.source)
    assert case.provenance["simulation"] != simulation_record(recipe, loaded.source, seed=3)
    scanner = json.loads((tmp_path / "case" / "meta_data.json").read_text())["scanner"]
    assert (scanner["noise"], scanner["poisson_noise"]) == (True, 1e4)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"fit": "head"}, "fit is 'head'"),
        ({"window_hu": (0.0, float("inf"))}, "window_hu"),
        ({"layout": "spiral"}, "layout is 'spiral'"),
        ({"slices": 7}, "slices is 7; 8 to 128"),
        ({"slices": 8}, "slices is 8 and the beam is a cone"),
        ({"size": 16, "slices": 17}, "slices is 17; 8 to 16"),
        ({"start_deg": float("nan")}, "start_deg is nan"),
        ({"start_deg": float("-inf")}, "start_deg is -inf"),
        ({"arc_deg": float("nan")}, "arc_deg is nan"),
        ({"spacing_mm": (1.0, 2.0)}, "spacing_mm is (1.0, 2.0)"),
    ],
)
def test_a_recipe_that_makes_no_scan_is_refused(arguments, named, one_sentence):
    with pytest.raises(ValueError) as error:
        ScanRecipe(**arguments)
    assert named in one_sentence(error)
