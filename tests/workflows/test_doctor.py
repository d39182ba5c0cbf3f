import configparser
import importlib

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
