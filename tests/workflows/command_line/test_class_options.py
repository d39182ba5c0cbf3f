import importlib
import inspect
import re
from pathlib import Path

import pytest

from diffnr_lightning.workflows.command_line.class_options import (
    check_class_options,
    class_nodes,
    class_parameters,
)

REPOSITORY = Path(__file__).resolve().parents[3]
NAMED = sorted(
    {
        path
        for file in [
            *REPOSITORY.glob("configs/*/*.yaml"),
            *REPOSITORY.glob("experiments/**/*.yaml"),
        ]
        for path in re.findall(r"class_path: (diffnr_lightning[\w.]+)", file.read_text())
    }
)


@pytest.mark.parametrize("class_path", NAMED)
def test_the_source_says_what_the_class_does(class_path):
    module, _, name = class_path.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    known = class_parameters(class_path)
    assert known is None or known == tuple(inspect.signature(kind).parameters)


def test_most_classes_of_configs_can_be_read():
    readable = [class_path for class_path in NAMED if class_parameters(class_path)]
    assert len(readable) > 0.7 * len(NAMED)
    assert class_parameters("torch.nn.Linear") is None
    assert class_parameters("diffnr_lightning.modules.Nothing") is None


METHOD = """
method:
  class_path: diffnr_lightning.workflows.Scene
  init_args:
    optimisation:
      class_path: diffnr_lightning.modules.SceneOptimization
      init_args: {lambda_tv: 1}
"""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method.optimisation.lambda_dif", "3"], "--method.optimisation: .*mean lambda_diff"),
        (["--method.init_args.iteration=3"], "--method: .*Scene has no 'iteration'; did you mean"),
        (["--method.optimisation={lamda_tv: 2}"], "has no 'lamda_tv'; did you mean lambda_tv"),
        (
            [
                "--method.representation",
                "{class_path: diffnr_lightning.representations.Siren, a: 1}",
            ],
            "--method.representation: .*Siren has no 'a'",
        ),
    ],
)
def test_misspelt_options_are_named_with_the_nearest(tmp_path, options, words):
    config = tmp_path / "method.yaml"
    config.write_text(METHOD)
    argv = [f"--config={config}", "--out", "run", *options]
    with pytest.raises(ValueError, match=words):
        check_class_options(class_nodes(argv, [config], ["method"]))


@pytest.mark.parametrize(
    "options",
    [
        ["--method.optimisation.lambda_diff", "3", "--method.iterations", "5"],
        ["--method.init_args.optimisation", "{lambda_ssim: 0}"],
        ["--method", "diffnr_lightning.workflows.Solver", "--method.options.anything", "1"],
        ["--method.optimisation", "my.Own", "--method.optimisation.its_option", "1"],
    ],
)
def test_what_there_is_and_what_cannot_be_known_passes(tmp_path, options):
    config = tmp_path / "method.yaml"
    config.write_text(METHOD)
    argv = [f"--config={config}", *options]
    check_class_options(class_nodes(argv, [config], ["method"]))
