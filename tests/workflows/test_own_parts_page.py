"""What docs/own_parts.md shows runs as it is written."""

import json
import re

import pytest

from diffnr_lightning.data import ScanRecipe
from diffnr_lightning.workflows import reconstruct, simulate
from diffnr_lightning.workflows.command_line.settings import parse


@pytest.fixture(scope="module")
def shown(repository, tmp_path_factory):
    """A folder with the page's package, its config and a case."""
    folder = tmp_path_factory.mktemp("own")
    page = (repository / "docs/own_parts.md").read_text(encoding="utf-8")
    for name, text in re.findall(r"```\w+\n# (\S+)\n(.*?)```", page, re.DOTALL):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    simulate("phantom:1", folder / "case", ScanRecipe(size=16, num_views=6))
    return folder


@pytest.mark.parametrize(
    ("options", "method"),
    [
        (["--config", "log_voxels.yaml"], "log voxels"),
        (
            ["--config", "log_voxels.yaml", "--config", "diffnr/align.yaml"],
            "log voxels + DiffNR + data consistency",
        ),
        (["--config", "sirt", "--method.name", "my_package.parts.blurred"], "SIRT"),
    ],
)
def test_own_parts_reconstruct(shown, monkeypatch, options, method):
    monkeypatch.chdir(shown)
    monkeypatch.syspath_prepend(str(shown))
    short = [] if method == "SIRT" else ["--method.iterations", "10"]
    line = [*options, *short, "--case", "case", "--out", f"run_{len(options)}_{len(short)}"]
    run = reconstruct(**parse(reconstruct, line).arguments)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["method"] == method
    assert metrics["protocols"]["r2"]["psnr"] > 12
