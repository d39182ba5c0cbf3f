"""Every shipped config is read by the command it is for; configs/tiny are run elsewhere."""

import importlib
from pathlib import Path

import pytest

from diffnr_lightning.workflows.settings import parse, settings_parser

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
FILES = sorted(CONFIGS.glob("*/*.yaml"))

# Folder -> command, and the options that a user has to add.
COMMANDS = {
    "data": ("simulate", ["--volume=phantom:0", "--out=case"]),
    "reconstruct": ("reconstruct", ["--case=case", "--out=run"]),
    "curate": ("curate", ["--volumes=[phantom:0]", "--out=pairs"]),
    "finetune": ("finetune", ["--data.folders=[pairs]", "--out=run"]),
    "loggers": (
        "reconstruct",
        [f"--config={CONFIGS / 'reconstruct' / 'fdk.yaml'}", "--case=case", "--out=run"],
    ),
    "cluster": ("submit", ["--command=sweep --config runs.yaml"]),
}


def command_of(path):
    """A tiny config carries its command at the front of its name."""
    if path.parent.name != "tiny":
        return COMMANDS[path.parent.name]
    return next(entry for folder, entry in COMMANDS.items() if path.name.startswith(entry[0]))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_config_is_accepted(path):
    command, options = command_of(path)
    workflow = getattr(importlib.import_module("diffnr_lightning.workflows"), command)
    parser = settings_parser(workflow)
    parser.parse_args([f"--config={path}", *options])


@pytest.mark.parametrize(
    "path",
    sorted((CONFIGS.parent / "experiments" / "slicefixer_ablation").glob("*.yaml")),
    ids=lambda path: path.stem,
)
def test_an_ablation_of_the_slicefixer_changes_what_it_names(path):
    workflow = importlib.import_module("diffnr_lightning.workflows").finetune
    base = [f"--config={CONFIGS / 'finetune' / 'slicefixer_luna16.yaml'}"]
    options = ["--data.folders=[pairs]", "--out=run"]
    parser = settings_parser(workflow)
    whole = parser.parse_args([*base, *options])
    ablated = parser.parse_args([*base, f"--config={path}", *options])
    assert ablated.prior.class_path == whole.prior.class_path
    assert ablated.prior.init_args.organ == "chest"
    assert ablated.prior.init_args != whole.prior.init_args
    assert ablated.module.init_args.lambda_clip == 4


@pytest.mark.parametrize(
    "path",
    sorted((CONFIGS.parent / "experiments" / "compact_slicefixer").glob("*.yaml")),
    ids=lambda path: path.stem,
)
def test_a_variant_of_the_compact_slicefixer_changes_what_it_names(path):
    workflow = importlib.import_module("diffnr_lightning.workflows").finetune
    base = [f"--config={CONFIGS / 'finetune' / 'compact.yaml'}"]
    options = ["--data.folders=[pairs]", "--out=run"]
    parser = settings_parser(workflow)
    whole = parser.parse_args([*base, *options])
    variant = parser.parse_args([*base, f"--config={path}", *options])
    assert variant.prior.init_args.channels == whole.prior.init_args.channels
    assert (variant.prior, variant.module) != (whole.prior, whole.module)
    assert variant.data.init_args.context == variant.prior.init_args.context


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_config_says_what_it_is_for(path):
    assert path.read_text(encoding="utf-8").startswith("#")


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.glob("reconstruct/*.yaml")), ids=lambda path: path.stem
)
def test_every_method_can_be_built(path):
    workflow = importlib.import_module("diffnr_lightning.workflows").reconstruct
    settings = parse(workflow, [f"--config={path}", "--case=case", "--out=run"])
    assert settings.arguments["method"] is not None
    assert settings.resolved["method"]["class_path"].startswith("diffnr_lightning.")


def test_there_are_configs():
    names = {path.stem for path in CONFIGS.glob("reconstruct/*.yaml")}
    published = "fdk sirt sart asd_pocs r2gaussian r2gaussian_diffnr r2gaussian_diffnr_align"
    assert names >= set(published.split())
    assert (CONFIGS / "data" / "luna16.yaml").is_file()
