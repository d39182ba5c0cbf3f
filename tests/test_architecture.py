"""Who may import whom, and what a file may be called: the table of CONTRIBUTING.md, enforced."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "diffnr_lightning"
FILES = sorted(PACKAGE.rglob("*.py"))

EVERYTHING = {
    "batches",
    "callbacks",
    "consistency",
    "constructed",
    "data",
    "downstream",
    "draws",
    "files",
    "geometry",
    "kernels",
    "losses",
    "metrics",
    "modules",
    "phantoms",
    "photons",
    "planes",
    "priors",
    "projectors",
    "protocol_metrics",
    "reports",
    "representations",
    "solvers",
    "triton_kernels",
    "volume_patches",
}
MAY_IMPORT = {
    "assets": set(),
    "constructed": set(),
    "draws": set(),
    "files": set(),
    "batches": set(),
    "geometry": set(),
    "lazy": set(),
    "kernels": set(),
    "losses": {"kernels", "triton_kernels"},
    "metrics": set(),
    "protocol_metrics": {"metrics"},
    "photons": set(),
    "planes": set(),
    "phantoms": {"kernels"},
    "triton_kernels": set(),
    "volume_patches": set(),
    "projectors": {"geometry", "kernels", "triton_kernels"},
    "representations": {"draws", "geometry", "kernels", "triton_kernels", "projectors", "losses"},
    "consistency": {"photons", "geometry", "projectors"},
    "solvers": {
        "draws",
        "photons",
        "consistency",
        "geometry",
        "kernels",
        "triton_kernels",
        "projectors",
        "losses",
        "volume_patches",
    },
    "priors": {
        "photons",
        "consistency",
        "files",
        "geometry",
        "planes",
        "losses",
        "solvers",
        "volume_patches",
    },
    "data": {
        "constructed",
        "photons",
        "files",
        "planes",
        "batches",
        "geometry",
        "phantoms",
        "projectors",
    },
    "modules": {
        "draws",
        "photons",
        "batches",
        "geometry",
        "representations",
        "priors",
        "losses",
        "metrics",
        "protocol_metrics",
        "volume_patches",
    },
    "callbacks": {
        "constructed",
        "draws",
        "files",
        "geometry",
        "photons",
        "planes",
        "representations",
        "priors",
        "protocol_metrics",
        "metrics",
    },
    "downstream": set(),
    "reports": {"files", "planes", "metrics"},
    "workflows": EVERYTHING,
    "cli": {"workflows"},
}
MOST_LINES = 400
MOST_FILES_OF_DATA = 24
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "tools"}
# Imported only where they are used: an installation without the extra works without them.
OPTIONAL = {
    "astra",
    "itk",
    "lungmask",
    "peft",
    "submitit",
    "tigre",
    "tinycudann",
    "transformers",
    "wandb",
}


def unit(path: Path) -> str:
    """The part of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def ours(path: Path) -> set[str]:
    """The parts of the package that a file imports, wherever in it."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            if node.module != "diffnr_lightning":
                names = [node.module]
        for name in names:
            root, *rest = name.split(".")
            assert root != "experiments", f"{path.name}:{node.lineno} imports experiments"
            if root == "diffnr_lightning" and rest and rest[0] != "__version__":
                parts.add(rest[0])
    return parts


def module(path: Path) -> str:
    """The name by which a file is imported."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def imports(path: Path) -> set[str]:
    """Everything that a file imports, wherever in it, as modules and as names in them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def relative(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_every_part_is_in_the_table():
    parts = {unit(path) for path in FILES} - {"__init__"}
    assert parts <= set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_go_one_way(path):
    if path == PACKAGE / "__init__.py":
        assert ours(path) == set()
        return
    allowed = MAY_IMPORT[unit(path)] | {unit(path), "lazy"}
    assert ours(path) <= allowed, f"{relative(path)} imports {ours(path) - allowed}"


def test_no_two_files_import_each_other():
    names = {module(path) for path in FILES}
    imported = {module(path): imports(path) & names - {module(path)} for path in FILES}
    pairs = {(a, b) for a in imported for b in imported[a] if a < b and a in imported[b]}
    assert not pairs


def test_data_is_a_folder_that_one_can_survey():
    assert len(list((PACKAGE / "data").glob("*.py"))) <= MOST_FILES_OF_DATA


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_files_are_short_and_named_by_a_noun(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
    assert not FORBIDDEN_NAMES & set(re.split(r"[/_.]", relative(path)))


def test_files_of_tests_are_short_and_named_by_a_noun():
    tests = Path(__file__).parent
    for path in tests.rglob("*.py"):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= MOST_LINES, f"{path.relative_to(tests)} has {lines} lines"
        assert not FORBIDDEN_NAMES & set(re.split(r"[/_.]", str(path.relative_to(tests))))


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_optional_packages_are_imported_where_they_are_used(path):
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            roots = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots = {node.module.split(".")[0]}
        else:
            continue
        assert not roots & OPTIONAL, f"{relative(path)}:{node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_triton_is_imported_by_its_kernels_and_they_where_they_are_used(path):
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {node.module, *(alias.name for alias in node.names)} - {"takes_triton"}
        else:
            continue
        of_kernels = any(
            name.split(".")[0] == "triton" or name.endswith("_triton") for name in names
        )
        assert path.stem.endswith("_triton") or not of_kernels, f"{relative(path)}:{node.lineno}"


def test_the_package_alone_loads_nothing_heavy():
    program = (
        "import sys, diffnr_lightning;"
        "heavy = {'torch', 'numpy', 'numba', 'diffusers', 'lightning'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_table_of_contributing_is_the_one_that_is_enforced(repository):
    text = (repository / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([^|]+)` \| ([^|]+) \|", text, re.MULTILINE))
    written = {}
    for names, allowed in rows.items():
        for name in re.split(r"`, `", names):
            written[name] = set(re.findall(r"`(\w+)`", allowed))
            if "everything above" in allowed:
                written[name] = EVERYTHING
    assert {name: written.get(name) for name in MAY_IMPORT} == MAY_IMPORT
