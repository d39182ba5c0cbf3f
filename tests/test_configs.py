"""Every shipped config is read by the command it is for; configs/tiny are run elsewhere."""

import importlib
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from diffnr_lightning.data.splits import listed
from diffnr_lightning.workflows.cases.volume_sources import volume_sources
from diffnr_lightning.workflows.command_line.config_files import COMPOSED, config_files, method_name
from diffnr_lightning.workflows.command_line.settings import configured, parse, settings_parser

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
FILES = sorted(CONFIGS.glob("*/*.yaml"))
SWEEPS = [
    path
    for path in sorted((CONFIGS.parent / "experiments").glob("*/*.yaml"))
    if "methods:" in path.read_text()
]

# Folder -> command, and the options that a user has to add.
COMMANDS = {
    "data": ("simulate", ["--volume=phantom:0", "--out=case"]),
    "reconstruct": ("reconstruct", ["--case=case", "--out=run"]),
    "curate": ("curate", ["--volumes=[phantom:0]", "--out=pairs"]),
    "finetune": ("finetune", ["--data.folders=[pairs]", "--out=run"]),
    "denoisers": ("train-denoiser", ["--volumes=[phantom:100]", "--out=run"]),
    "loggers": (
        "reconstruct",
        [f"--config={CONFIGS / 'reconstruct' / 'fdk.yaml'}", "--case=case", "--out=run"],
    ),
    "cluster": ("submit", ["--command=sweep --config runs.yaml"]),
    # An overlay is laid over a method: over those that it names, else over any.
    "diffnr": ("reconstruct", ["--case=case", "--out=run"]),
    "samplers": ("reconstruct", ["--case=case", "--out=run"]),
}


def command_of(path):
    """A tiny config carries its command at the front of its name."""
    if path.parent.name != "tiny":
        return COMMANDS[path.parent.name]
    return next(entry for entry in COMMANDS.values() if path.name.startswith(entry[0]))


BLENDS = ["dds", "dds2d", "diffusionblend", "diffusionblend_pp"]
SAMPLERS = {
    "counted": [*BLENDS, "patch_diffusion"],
    "fitted": [*BLENDS, "ddip3d", "scd", "patch_diffusion", "tpdm", "diffusion_mbir"],
    "settled": [*BLENDS, "ddip3d", "scd", "dinr", "patch_diffusion", "tpdm", "diffusion_mbir"],
    "shared_noise": [*BLENDS, "ddip3d", "diffusion_mbir"],
    "two_tilings": ["patch_diffusion"],
    "warm": [*BLENDS, "ddip3d", "scd", "dinr", "patch_diffusion", "tpdm", "diffusion_mbir"],
}


def bases_of(path):
    """Methods that a file of configs/diffnr or configs/samplers is laid over."""
    if path.parent.name == "samplers":
        return SAMPLERS[path.stem]
    if path.parent.name != "diffnr":
        return []
    if path.stem in ("paper", "released"):
        return ["r2gaussian_paper", "naf_paper"][: 2 if path.stem == "paper" else 1]
    return ["r2gaussian", "naf", "saxnerf", "siren", "voxel_grid"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_config_is_accepted(path):
    command, options = command_of(path)
    workflows = importlib.import_module("diffnr_lightning.workflows")
    workflow = getattr(workflows, command.replace("-", "_"))
    parser = settings_parser(workflow)
    bases = [f"--config={CONFIGS / 'reconstruct' / base}.yaml" for base in bases_of(path)]
    for base in bases or [None]:
        parser.parse_args([*filter(None, [base]), f"--config={path}", *options])


@pytest.mark.parametrize(
    "path",
    sorted((CONFIGS.parent / "experiments" / "diffnr" / "4" / "priors").glob("[!m]*.yaml")),
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


METHODS = [
    *(path.stem for path in sorted(CONFIGS.glob("reconstruct/*.yaml"))),
    *COMPOSED.values(),
    *(method for runs in SWEEPS for method in yaml.safe_load(runs.read_text())["methods"]),
]


@pytest.mark.parametrize("method", dict.fromkeys(METHODS))
def test_every_method_can_be_built(method, monkeypatch, tmp_path):
    monkeypatch.chdir(CONFIGS.parent)
    workflow = importlib.import_module("diffnr_lightning.workflows").reconstruct
    settings = parse(workflow, [f"--config={method}", f"--case={tmp_path}", "--out=run"])
    assert settings.arguments["method"] is not None
    assert settings.resolved["method"]["class_path"].startswith("diffnr_lightning.")


MAIN_JOB = CONFIGS.parent / "experiments" / "main_job"
ABLATION = CONFIGS.parent / "experiments" / "ablation" / "methods"


@pytest.mark.parametrize("overlay", [None, "materials", "specimens"])
def test_the_main_table_is_of_the_test_set(overlay, monkeypatch):
    monkeypatch.setenv("DIFFNR_DATA", "volumes")
    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.chdir(CONFIGS.parent)
    workflows = importlib.import_module("diffnr_lightning.workflows")
    files = [MAIN_JOB / f"{name}.yaml" for name in ("runs", overlay) if name]
    settings = configured(workflows.sweep, files, {"out": "runs"}).arguments
    found = [listed(source) for source in volume_sources(settings["volumes"]).values()]
    assert {volume.set for volume in found} == {"test"}
    kinds = dict(Counter(volume.kind for volume in found))
    assert (
        kinds
        == {
            None: {"head": 10, "chest": 1, "limb": 4, "plastic": 1, "phantom": 2},
            "materials": {"tooth": 1, "fibres": 1},
            "specimens": {"specimen": 4},
        }[overlay]
    )
    scan = {"volume": "phantom:300", "out": "case"}
    recipes = [
        configured(workflows.simulate, [name], scan).arguments["recipe"]
        for name in settings["scans"]
    ]
    noises = [(recipe.noise.mode, recipe.noise.photons) for recipe in recipes]
    assert noises == [("tigre", 1e4), ("physical", 1e5), ("physical", 31623)]
    assert {recipe.size for recipe in recipes} == {128}
    assert settings["views"] == [24, 36, 12]


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("no_weights", {"weights": "uniform"}),
        ("no_trust", {"consistency": "none"}),
        ("unsettled", {"finish": "repair"}),
        ("old_prior", {"weights": "runs/old_prior.safetensors"}),
    ],
)
def test_an_ablation_takes_one_thing_away(name, changed, monkeypatch, tmp_path):
    monkeypatch.chdir(CONFIGS.parent)
    workflow = importlib.import_module("diffnr_lightning.workflows").reconstruct
    where = {"case": str(tmp_path), "out": "run"}
    base = "r2gaussian+diffnr/align"
    whole = configured(workflow, [base], where).resolved
    ablated = configured(workflow, [base, ABLATION / f"{name}.yaml"], where).resolved
    assert ablated.pop("variant") not in (None, whole.pop("variant"))

    def leaves(node, path=""):
        if not isinstance(node, dict):
            return {path: node}
        return {k: v for key in node for k, v in leaves(node[key], f"{path}.{key}").items()}

    whole, ablated = leaves(whole), leaves(ablated)
    moved = {key: value for key, value in ablated.items() if whole[key] != value}
    assert {key.rpartition(".")[2]: value for key, value in moved.items()} == changed
    assert whole.keys() == ablated.keys()


@pytest.mark.parametrize("name", ["slicefixer_luna16", "slicefixer_toothfairy"])
def test_pairs_for_the_papers_tables_are_made_as_its_methods_are_run(name):
    curated = yaml.safe_load((CONFIGS / "curate" / f"{name}.yaml").read_text())
    assert (curated["weighted_share"], curated["surroundings"]) == (0, "ignore")
    for method, base in zip(curated["methods"], ["r2gaussian_paper", "naf_paper"], strict=True):
        run = yaml.safe_load((CONFIGS / "reconstruct" / f"{base}.yaml").read_text())
        assert (run["weights"], run["surroundings"]) == ("uniform", "ignore")
        # Without a prior there is no reference.
        run["method"]["init_args"]["optimisation"].get("init_args", {}).pop("reference_every", None)
        assert method == run["method"]


def test_a_batch_of_a_denoiser_is_as_large_as_documented():
    rows = re.findall(
        r"^\| `denoisers/(\w+)` .*\| ([^|]+) \|$",
        (CONFIGS.parent / "docs" / "training.md").read_text(),
        re.M,
    )
    assert {name for name, _ in rows} == {path.stem for path in CONFIGS.glob("denoisers/*.yaml")}
    for name, batch in rows:
        data = yaml.safe_load((CONFIGS / "denoisers" / f"{name}.yaml").read_text())["data"]
        count, *smaller = map(
            int, re.findall(r"(\d+) (?:slices|triplets|patches|crops|of)\b", batch)
        )
        edges = sorted(set(data["init_args"].get("crops", [])), reverse=True)
        assert count == data["init_args"]["batch_size"], name
        assert smaller == [count * (edges[0] // edge) ** 2 for edge in edges[1:]], name


def test_there_are_configs():
    names = {path.stem for path in CONFIGS.glob("reconstruct/*.yaml")}
    published = "fdk sirt sart asd_pocs weighted_tv cgls fista_tv sbtv mbir r2gaussian dds dds2d"
    published += " diffusionblend diffusionblend_pp diffusion_mbir tpdm patch_diffusion fbp_unet"
    assert names >= set(published.split())
    assert (CONFIGS / "data" / "luna16.yaml").is_file()


@pytest.mark.parametrize("base", ["r2gaussian", "naf", "saxnerf", "siren", "voxel_grid"])
def test_an_overlay_keeps_the_base_and_adds_the_prior(base, tmp_path):
    workflow = importlib.import_module("diffnr_lightning.workflows").reconstruct
    where = [f"--case={tmp_path}", "--out=run"]
    plain = parse(workflow, [f"--config={base}", *where])
    whole = parse(workflow, [f"--config={base}+diffnr/align", *where])
    before, after = (s.resolved["method"]["init_args"] for s in (plain, whole))
    for key in ("representation", "rays", "views", "iterations"):
        assert after[key] == before[key]
    # Nothing is left of the options of the solver that the base starts from.
    assert after["start"]["init_args"] == {"name": "weighted_tv", "options": {"iterations": 30}}
    schedule, longer = plain.arguments["method"].iterations, whole.arguments["method"].iterations
    assert longer == 1.5 * schedule
    assert whole.arguments["method"].pseudo_reference.every == schedule
    changed = {"lambda_diff": 1.0, "reference_every": 4}
    losses = before["optimisation"]["init_args"] | changed
    assert after["optimisation"]["init_args"] == losses
    assert whole.resolved["variant"] == "DiffNR + data consistency"


@pytest.mark.parametrize(
    ("configs", "options", "variant"),
    [
        ("dds+samplers/settled", [], "settled"),
        ("dds+samplers/fitted+samplers/settled", [], "fitted + settled"),
        ("dds+samplers/fitted+samplers/settled", ["--variant=mine"], "mine"),
        ("r2gaussian+diffnr/align+diffnr/trial", [], "DiffNR + data consistency, on trial"),
    ],
)
def test_a_label_names_all_overlays_that_add_to_it(configs, options, variant, tmp_path):
    workflow = importlib.import_module("diffnr_lightning.workflows").reconstruct
    arguments = [f"--config={configs}", f"--case={tmp_path}", "--out=run", *options]
    assert parse(workflow, arguments, build=False).resolved["variant"] == variant
    if not options:
        overrides = {"case": str(tmp_path), "out": "run"}
        assert configured(workflow, [configs], overrides).resolved["variant"] == variant


def test_the_names_of_the_release_before_still_work(caplog, tmp_path):
    workflow = importlib.import_module("diffnr_lightning.workflows").reconstruct
    where = [f"--case={tmp_path}", "--out=run"]
    for old, new in COMPOSED.items():
        settings = [parse(workflow, [f"--config={name}", *where]).resolved for name in (old, new)]
        assert settings[0]["method"] == settings[1]["method"]
        assert f"config {old} is composed now" in caplog.text


def test_a_config_that_does_not_exist_is_named_with_the_nearest():
    with pytest.raises(FileNotFoundError, match="did you mean reconstruct/siren.yaml"):
        config_files("sirent")
    with pytest.raises(FileNotFoundError, match=r"config mine.yaml does not exist\.$"):
        config_files("mine.yaml")
    with pytest.raises(FileNotFoundError, match="did you mean reconstruct/sirt.yaml"):
        config_files("reconstruct/sirtt.yaml")
    names = [path.stem for path in config_files("naf+diffnr/align")]
    assert names == ["naf", "align"]
    assert method_name("naf+diffnr/align") == "naf+align"
