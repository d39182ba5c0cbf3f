import configparser
import importlib
import re

from diffnr_lightning.cli import main
from diffnr_lightning.data.splits import read_split
from diffnr_lightning.workflows.machine.package_uses import PACKAGES, uses, uses_in_words

SCAN = ["--volume=phantom:1", "--size=16", "--num_views=5"]
# The package's attribute of this name is the function.
doctor_module = importlib.import_module("diffnr_lightning.workflows.doctor")


def test_extras_are_those_of_the_package(repository):
    setup = configparser.ConfigParser()
    setup.read(repository / "setup.cfg")
    assert set(doctor_module.EXTRAS) == set(setup["options.extras_require"])


def test_doctor_says_what_will_run_where(capsys, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    doctor_module.doctor()
    shown = capsys.readouterr().out
    for words in (
        "separable (numba)",
        "rays (numba)",
        "PASSIVE is much faster",
        "numba threads",
        "SliceFixer",
        "diffnr-lightning[",
    ):
        assert words in shown


def test_a_gpu_is_said_to_run_its_own_kernels(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("diffnr_lightning.projectors.choose_backend", lambda *_: "separable")
    first, second = (list(column.cells) for column in doctor_module._kernels().columns[1:])
    assert first[0] == "separable (numba)" and second[0] == "separable (triton)"


def test_doctor_counts_the_volumes_of_data_sets(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFNR_LUNA16", str(tmp_path))
    monkeypatch.delenv("DIFFNR_TOOTHFAIRY", raising=False)
    for role, count in (("train", 3), ("test", 1)):
        for volume in [v for v in read_split("luna16") if v.set == role][:count]:
            (tmp_path / volume.volume).touch()
    table = doctor_module._data_sets()
    cells = [list(column.cells) for column in table.columns]
    assert cells[2][0] == "3 train, 0 development, 1 test"
    assert cells[1][1] == "DIFFNR_TOOTHFAIRY is not set"
    monkeypatch.setenv("DIFFNR_TOOTHFAIRY", str(tmp_path / "none"))
    assert "there is no such folder" in list(doctor_module._data_sets().columns[2].cells)[1]


def test_doctor_takes_the_config_that_a_run_keeps(tmp_path, capsys):
    case, run = tmp_path / "case", tmp_path / "run"
    assert main(["simulate", *SCAN, "--out", str(case)]) == 0
    assert main(["reconstruct", "--config=fdk+loggers/csv", f"--case={case}", f"--out={run}"]) == 0
    config = f"--config={run / 'config.yaml'}"
    capsys.readouterr()
    for options, words in (
        ([], "FDK, 16^3 voxels, 5 views of 16^2"),
        (["--pad=0.5"], "FDK, 24^3 voxels, 5 views of 16^2"),
        (["--size=64"], "FDK, 64^3 voxels, 5 views of 64^2"),
    ):
        assert main(["doctor", config, *options]) == 0
        assert words in " ".join(capsys.readouterr().out.split())
    assert main(["doctor", config, "--device=cuda"]) == 2
    assert "unknown option --device" in capsys.readouterr().err


def test_every_requirement_is_imported_somewhere(repository):
    """Of the package and of the extras that are for its users; the others are for those who work on it."""
    setup = configparser.ConfigParser()
    setup.read(repository / "setup.cfg")
    extras = dict(setup["options.extras_require"])
    for own in ("bench", "docs", "dev"):
        del extras[own]
    lines = "\n".join([setup["options"]["install_requires"], *extras.values()]).split()
    module_of = {"PyYAML": "yaml", "astra-toolbox": "astra"}
    names = {re.split(r"[>\[]", line)[0] for line in lines}
    assert {"torch", "peft", "wandb", "lungmask"} <= names
    for name in names:
        assert uses(module_of.get(name, name)), name


def test_doctor_says_where_each_package_is_used(capsys):
    asked = "torch lightning diffusers peft torchmetrics wandb tinycudann tigre monai omegaconf"
    assert set(PACKAGES) == set(asked.split())
    said = {module: uses_in_words(module) for module in PACKAGES}
    assert said["tigre"] == "projectors/tigre.py"
    assert said["torchmetrics"].startswith("protocol_metrics.py")
    assert "priors/slicefixers/turbo_backbone.py" in said["peft"]
    assert "configs/loggers/wandb.yaml" in said["wandb"]
    assert re.fullmatch(r"\d+ files of .*solvers.*", said["torch"])
    assert said["monai"].startswith("not used") and not uses("monai")
    # What is said to be unused is imported by nothing, and nothing else is.
    assert all(bool(uses(module)) != bool(remark) for module, (_, remark) in PACKAGES.items())


def test_every_extra_is_used_by_something(repository):
    """Nothing is listed that nothing imports, or names in a config or in the Makefile."""
    places = [*repository.glob("configs/loggers/*.yaml"), repository / "Makefile"]
    places += [
        *(repository / "diffnr_lightning").rglob("*.py"),
        *repository.glob("benchmarks/*.py"),
    ]
    text = "\n".join(p.read_text(encoding="utf-8") for p in places if p.name != "doctor.py").lower()
    for extra, (module, _, _) in doctor_module.EXTRAS.items():
        wanted = rf"import {module}\b|from {module}[ .]|{module}logger|-m {module}\b"
        assert re.search(wanted, text), extra
