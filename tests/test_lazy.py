"""Names that are imported when they are first used."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import diffnr_lightning
from diffnr_lightning import lazy

ROOT = Path(diffnr_lightning.__file__).parent
LAZY = sorted(
    path.parent.name
    for path in ROOT.glob("*/__init__.py")
    if "lazy.attributes" in path.read_text(encoding="utf-8")
)
FRACTION = lazy.deferred("fractions.Fraction")


@pytest.mark.parametrize("part", LAZY)
def test_all_that_a_package_offers_is_there(part):
    package = importlib.import_module(f"diffnr_lightning.{part}")
    assert package.__all__
    for name in package.__all__:
        assert getattr(package, name).__name__ if callable(getattr(package, name)) else True
        assert name in dir(package)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # noqa: B018 - it is the access that is refused


def test_importing_the_packages_loads_nothing_heavy():
    program = (
        f"import sys, importlib; [importlib.import_module('diffnr_lightning.' + p) for p in {LAZY}];"
        "sys.exit(', '.join({'torch', 'numba', 'scipy', 'lightning'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_name_that_is_a_file_as_well_is_refused():
    with pytest.raises(ValueError, match="offers 'sart', which is the name of a file"):
        lazy.attributes("package", {"sart": ["sart"], "fdk": ["analytic"]})


def test_a_deferred_class_makes_instances_of_the_class_it_stands_for():
    from fractions import Fraction

    assert FRACTION(1, 3) == Fraction(1, 3)
    assert isinstance(Fraction(1, 3), FRACTION)
    assert not isinstance(0.5, FRACTION)
    assert issubclass(type("Half", (Fraction,), {}), FRACTION)
    assert issubclass(FRACTION, FRACTION)
    assert not issubclass(int, FRACTION)
    assert (FRACTION.__module__, FRACTION.__qualname__) == ("fractions", "Fraction")


def test_asking_about_a_deferred_class_does_not_import_it():
    program = (
        "import sys; from diffnr_lightning.lazy import deferred;"
        "c = deferred('fractions.Fraction');"
        "sys.exit(isinstance(1, c) or issubclass(int, c) or 'fractions' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
