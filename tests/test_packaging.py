"""setup.cfg, constraints and the tree agree, and a wheel holds what a command needs."""

import ast
import configparser
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

import diffnr_lightning


@pytest.fixture(scope="module")
def setup(repository):
    parser = configparser.ConfigParser()
    parser.read(repository / "setup.cfg")
    return parser


def requirements(setup):
    extras = setup["options.extras_require"].values()
    lines = "\n".join([setup["options"]["install_requires"], *extras]).split("\n")
    return [line for line in lines if line.strip()]


def test_every_subpackage_is_listed(setup, repository):
    listed = set(setup["options"]["packages"].split())
    package = repository / "diffnr_lightning"
    folders = (path.parent.relative_to(package) for path in package.glob("*/**/__init__.py"))
    found = {".".join(("diffnr_lightning", *folder.parts)) for folder in folders}
    assert found <= listed
    assert {"diffnr_lightning", "diffnr_lightning.assets", "diffnr_lightning.configs"} <= listed


def test_every_requirement_has_lower_and_upper_bounds(setup):
    for line in requirements(setup):
        assert re.match(r"[A-Za-z0-9_.\[\]-]+>=[0-9.]+,<[0-9.]+(;|$)", line), line


@pytest.fixture(scope="module")
def pins(repository):
    """The lines of constraints.txt by the package they pin."""
    packaging = pytest.importorskip("packaging.requirements")
    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    read = [packaging.Requirement(line) for line in lines if line and not line.startswith("#")]
    return {pin.name.lower(): pin for pin in read}


def test_constraints_lie_within_the_bounds(setup, pins):
    packaging = pytest.importorskip("packaging.requirements")
    versions = {name: next(iter(pin.specifier)).version for name, pin in pins.items()}
    for line in requirements(setup):
        requirement = packaging.Requirement(line)
        if requirement.name.lower() in versions:
            assert versions[requirement.name.lower()] in requirement.specifier, line
    assert versions["torch"] == "2.13.0"


@pytest.mark.parametrize("name", ["diffusers", "transformers", "tokenizers"])
def test_a_hub_is_pinned_only_where_what_bounds_it_is(pins, name):
    """Pinned alone, as for Python 3.10, it would hold an old release of what asks for an earlier hub."""
    assert str(pins["huggingface_hub"].marker) == str(pins[name].marker)


def test_every_import_is_a_declared_dependency(setup, repository):
    declared = {re.split(r"[>\[]", line)[0].lower() for line in requirements(setup)}
    # Not on PyPI: environment.yml says how it is built.
    declared |= set(sys.stdlib_module_names) | {"diffnr_lightning", "tigre", "tinycudann"}
    module_of = {"pyyaml": "yaml", "pillow": "pil", "itk-rtk": "itk", "astra-toolbox": "astra"}
    declared |= {module_of[name] for name in declared & set(module_of)}
    for path in (repository / "diffnr_lightning").rglob("*.py"):
        imported = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
        missing = {name for name in imported if name.lower() not in declared}
        assert not missing, f"{path}: {missing}"


def test_version_is_said_once(setup):
    assert setup["metadata"]["version"] == "attr: diffnr_lightning.__version__"
    assert re.fullmatch(r"\d+\.\d+\.\d+", diffnr_lightning.__version__)


def test_an_installed_wheel_has_configs_and_weights(repository, tmp_path):
    source = tmp_path / "source"
    for folder in ("diffnr_lightning", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(repository / folder, source / folder, ignore=ignored)
    for name in ("setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(repository / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*pip, "--wheel-dir", str(tmp_path), str(source)], check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    configs = {
        f"diffnr_lightning/{p.relative_to(repository)}" for p in repository.glob("configs/*/*.yaml")
    }
    assert configs <= names
    package = repository / "diffnr_lightning"
    files = {path for path in package.rglob("*") if path.is_file()}
    files = {path for path in files if "__pycache__" not in path.parts}
    assert {str(path.relative_to(repository)) for path in files} <= names
    assert "diffnr_lightning/assets/compact_slicefixer.safetensors" in names
    program = (
        "from diffnr_lightning.workflows.command_line.config_files import shipped_config;"
        "print(shipped_config('reconstruct/fdk.yaml'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip().startswith(str(tmp_path))
