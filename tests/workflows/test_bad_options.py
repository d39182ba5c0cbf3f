"""Options and values that cannot be are refused in one sentence with exit code 2, before anything is written."""

import sys
import types
from pathlib import Path

import pytest

from diffnr_lightning.workflows import reconstruct
from diffnr_lightning.workflows.command_line.settings import parse

TINY = Path(__file__).resolve().parents[2] / "configs" / "tiny"
TRAIN = f"finetune --config {TINY / 'finetune.yaml'} --data.folders empty --out run"
CURATE = f"curate --config {TINY / 'curate.yaml'} --volumes phantom:0 --out pairs"
SWEEP = "sweep --volumes phantom:1 --methods fdk --views 8 --out runs"
SCENE = "reconstruct --config r2gaussian --config diffnr/align --case empty --out run"
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("ingest", ["--projections", "none.h5", "--out", "case"]),
        ("curate", ["--config", TINY / "curate.yaml", "--volumes", "none.mha", "--out", "pairs"]),
        ("curate", ["--config", TINY / "curate.yaml", "--shard", "3/2", "--out", "pairs"]),
        (
            "finetune",
            [
                "--data.folders",
                "p",
                "--data.iterations",
                "20000",
                "--prior",
                "torch.nn.Identity",
                "--out",
                "run",
            ],
        ),
    ],
)
def test_other_commands(refused, command, options):
    refused(command, *options)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"{TRAIN}", "empty holds no slice pairs"),
        (f"{TRAIN} --precision half", "one of 32-true, bf16-mixed, 16-mixed"),
        (f"{TRAIN} --data.batch_size many", "--data.batch_size is 'many'; int is expected"),
        (f"{TRAIN} --data.batch_sise 2", "'batch_sise'; did you mean batch_size"),
        (f"{TRAIN} --module.lambda_gna 2", "'lambda_gna'; did you mean lambda_gan"),
        (f"{TRAIN} --prior.channels null", "--prior.channels is null"),
        (f"{TRAIN} --data.iterations 13", "the three have to agree"),
        (f"{TRAIN} --data.context 0", "the prior sees 1 neighbouring slices"),
        (f"{TRAIN} --data.crop 16", "the discriminator takes slices of at least 24 pixels"),
        (f"{TRAIN} --device tpu", "cpu, cuda or cuda:N is expected"),
        (f"{TRAIN} --start none", "start none does not exist"),
        ("finetune --out run", "--data missing"),
        (f"finetune --config {TINY / 'finetune.yaml'} --out run", "--data.folders missing"),
        (f"{SWEEP} --methods nothing", "not among the configs"),
        (f"{SWEEP} --methods []", "methods is empty"),
        (f"{SWEEP} --views many", "--views is 'many'"),
        (f"{SWEEP} --views 1", "views has 1; at least two"),
        (f"{SWEEP} --shard 2", "shard is '2'"),
        (f"{SWEEP} --device cuda:99", "device is 'cuda:99'"),
        (f"{SWEEP} --volumes phantom:x", "whole numbers"),
        (f"{SWEEP} --volumes none.mha", "matches no file"),
        (f"{SWEEP} --out file.txt", "file.txt is a file"),
        ("demo --size 0", "size is 0"),
        ("demo --num_views 1", "num_views is 1"),
        ("demo --out file.txt/demo", "file.txt is a file"),
        ("submit --command nothing", "curate, sweep, reconstruct, finetune, train-denoiser"),
        ("submit --command sweep --jobs 0", "jobs is 0"),
        ("submit --command reconstruct --jobs 2", "only curate and sweep"),
        ("submit --command sweep --cluster pbs", "one of slurm, local"),
        ("report --runs empty", "no finished run lies under empty"),
        ("report --runs file.txt", "file.txt"),
        ("evaluate", "--runs missing"),
        (f"{CURATE} --runs 0", "runs is 0"),
        (f"{CURATE} --biplanar_size 0", "biplanar_size is 0"),
        (f"{CURATE} --fractions 0", "shares above 0 and up to 1"),
        (f"{CURATE} --views 1", "num_views is 1"),
        (f"{CURATE} --zooms 2 1", "smallest <= largest"),
        (f"{CURATE} --layouts round", "uniform, random"),
        (f"{CURATE} --out file.txt/pairs", "file.txt is a file"),
        ("curate --volumes phantom:0 --out pairs", "--methods missing"),
        ("ingest --projections file.txt --out case", "file.txt has the type '.txt'"),
        ("ingest --projections empty --out case", "folder empty holds no TIFF images"),
        ("simulate --volume specimen:x --out case", "whole numbers"),
        ("simulate --volume phantom:1-3 --out case", "one object"),
        ("simulate --volume empty --out case", "holds no slices"),
        ("simulate --volume phantom:1 --out case --layout limited_arc", "without arc_deg"),
        ("simulate --volume phantom:1 --out case --noise.mode loud", "physical, tigre, none"),
        ("reconstruct --config fkd --case empty --out run", "did you mean reconstruct/fdk.yaml"),
        ("reconstruct --config fdk --case empty --out run", "meta_data.json does not exist"),
        ("reconstruct --config diffnr/align --case empty --out run", "r2gaussian+diffnr/align"),
        ("reconstruct --config samplers/warm --case empty --out run", "dds+samplers/warm"),
        ("sweep --volumes phantom:1 --views 4 --methods diffnr/align --out runs", "r2gaussian+"),
        ("reconstruct --config fdk --case file.txt --out run", "file of unknown type"),
        ("reconstruct --config fdk --case empty --out run --checkpoint_every 0", "at least one"),
        ("reconstruct --config fdk --case empty --out run --method.name x", "is no solver"),
        (
            "reconstruct --config sirt --case empty --out run --method.options.itrations 3",
            "itrations",
        ),
        (
            "reconstruct --config sirt --case empty --out run --method.options.iterations few",
            "option iterations of solver sirt is 'few'; int is expected",
        ),
        (
            "reconstruct --config sirt --case empty --out run --method.options.iterations null",
            "option iterations of solver sirt is null; a value such as 100 is expected",
        ),
        ("doctor --nothing", "unknown option --nothing"),
        ("doctor --config fdk --pad -1", "pad is -1.0; a share of at least 0 is expected"),
        ("sweep --methods --out runs", "--methods is given without a value; "),
        ("doctor --method.name fdk", "--method has options but no class; --config with"),
        ("doctor --method no_package.Method", "there is no module 'no_package'; install"),
        (f"{TRAIN} --prior diffnr_lightning.priors.SliceFixr", "did you mean SliceFixer"),
    ],
)
def test_commands_that_cannot_be_done(refused, tmp_path, line, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("nothing\n")
    assert words in refused(*line.split())


def test_text_that_yaml_reads_as_a_number_is_said_so(refused, tmp_path):
    (tmp_path / "label.yaml").write_text("variant: 2000\n")
    line = refused(*"reconstruct --config fdk --config label.yaml --case . --out run".split())
    assert "--variant is 2000, which YAML reads as int; text in quotes is expected" in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("pseudo_reference.repairer.passes many", "is 'many'; int is expected"),
        (
            "pseudo_reference.repairer.pases 1",
            "Repairer has no 'pases'; did you mean passes",
        ),
        (
            "pseudo_reference.repairer.tolerance 0.02",
            "Repairer has no 'tolerance' any more; consistency has taken its place",
        ),
        ("pseudo_reference.repairer.planes axial up", "is 'up'; one of axial, coronal, sagittal"),
        ("pseudo_reference.every 0", "every is 0"),
        ("pseudo_reference.repairer.planes axial", "a list is expected, such as '[axial]'"),
        ("representation no_package.Volume", "there is no module 'no_package'; install"),
        ("optimisation.lambda_dif 3", "did you mean lambda_diff"),
        ("optimisation.lambda_diff null", "--method.optimisation.lambda_diff is null; float"),
        ("iterations null", "--method.iterations is null; int is expected"),
        ("trial.views two", "--method.trial.views is 'two'; int is expected"),
        ("start sirt", "--method.start is 'sirt'; the import path of a Solver or null"),
        ("finish polish", "one of query, repair, settle"),
    ],
)
def test_values_of_classes_within_classes(refused, options, words, tmp_path):
    (tmp_path / "empty").mkdir()
    line = refused(*SCENE.split(), *f"--method.{options}".split())
    assert words in line
    assert len(line) < 200


def test_arguments_of_own_classes_have_types(refused, monkeypatch):
    own = types.ModuleType("own_methods")
    exec(
        "from diffnr_lightning.workflows import Scene\nclass Own(Scene):\n  def __init__(self, share): ...",
        vars(own),
    )
    own.Own.__module__ = own.__name__
    monkeypatch.setitem(sys.modules, own.__name__, own)
    line = refused("doctor", "--method", "own_methods.Own")
    assert (
        "own_methods.Own takes 'share' without a type; one is expected, such as share: float."
        in line
    )


@pytest.mark.parametrize("out", [["--out", ""], ["--out="]])
def test_empty_words_are_no_paths(refused, out):
    line = refused("demo", *out)
    assert line.startswith("diffnr demo: error: --out is given an empty word")


def test_empty_words_of_a_list_are_no_paths(refused):
    assert "--runs is given an empty word" in refused("evaluate", "--runs", "", "runs")
    assert "--runs is given an empty word" in refused("evaluate", "--runs", "runs", "")


def test_weights_of_the_other_kind(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    line = refused(*SCENE.split(), "--method.pseudo_reference.repairer.weights", "fbp_unet")
    assert "fbp_unet.safetensors holds an FBP-UNet" in line and "a SliceFixer is expected" in line
    line = refused(
        *SCENE.replace("r2gaussian --config diffnr/align", "fbp_unet").split(),
        "--method.repairer.weights",
        "compact_slicefixer",
    )
    assert "holds a SliceFixer" in line and "an FBP-UNet" in line


@pytest.mark.parametrize(
    "option",
    [
        "pseudo_reference.every_share",
        "init_args.pseudo_reference.init_args.every_share",
        "pseudo_reference.repairer.weights",
        "density_control",
        "trial",
        "start",
    ],
)
def test_null_is_taken_for_what_may_be_none(option):
    settings = parse(
        reconstruct,
        [*SCENE.replace("--case empty", "--case .").split()[1:], f"--method.{option}", "null"],
    )
    node = settings.resolved["method"]
    for key in option.replace("init_args.", "").split("."):
        node = node.get("init_args", node)[key]
    assert node is None


def test_a_class_says_why_it_cannot_be_made(refused, tmp_path, monkeypatch):
    """Its package is missing, for one."""
    (tmp_path / "my_loggers.py").write_text(
        "from lightning.pytorch.loggers import CSVLogger\n\n\n"
        "class Remote(CSVLogger):\n"
        "    def __init__(self, where: str = 'there'):\n"
        "        raise ModuleNotFoundError('Remote needs the package remote')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "logger.yaml").write_text("curves: {class_path: my_loggers.Remote}\n")
    options = ["--case", tmp_path, "--config", "fdk", "--config", tmp_path / "logger.yaml"]
    said = "my_loggers.Remote cannot be made: Remote needs the package remote."
    assert said in refused("reconstruct", *options, "--out", "run")
