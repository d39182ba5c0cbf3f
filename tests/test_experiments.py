"""The scripts beside the tables tell gains and monotony rightly from tables that are made up."""

import csv
import importlib

import pytest
import yaml

FIELDS = ["method", "case", "kind", "views", "noise", "size", "r2_psnr", "r2_ssim"]
OURS = "3D Gaussians + DiffNR + data consistency"
LOUD, QUIET = "tigre 10000±10", "physical 100000±10"


@pytest.fixture
def scripts(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "experiments" / "main_job"))
    return importlib.import_module


def written(folder, lines, name="table.csv"):
    """Write (case, kind, views, noise, {method: (PSNR, SSIM)}) as `evaluate` does."""
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(FIELDS)
        for case, kind, views, noise, scores in lines:
            for method, numbers in scores.items():
                writer.writerow([method, case, kind, views, noise, 128, *numbers])
        writer.writerow(["FDK", "mean", "", 24, LOUD, 128, 99, 1])
        writer.writerow(["SART", "pt_1", "head", 24, LOUD, 128, "", ""])
    return folder / name


@pytest.fixture
def table(tmp_path):
    def scores(ours, fdk, sirt, variant=(90.0, 0.999)):
        return {OURS: ours, "FDK": fdk, "SIRT": sirt, "3D Gaussians + DiffNR": variant}

    lines = [
        ("pt_1", "head", 24, LOUD, scores((35, 0.90), (30, 0.95), (33, 0.80))),
        ("pt_1", "head", 12, LOUD, scores((30, 0.90), (31, 0.80), (29, 0.85))),
        ("pt_1", "head", 24, QUIET, scores((36, 0.95), (30, 0.80), (33, 0.90))),
        ("sts_012", "", 24, LOUD, scores((31, 0.90), (30, 0.80), (27, 0.85))),
        ("tooth", "tooth", 24, LOUD, scores((29.95, 0.90), (30, 0.80), (27, 0.85))),
        ("mine", "", 24, LOUD, {OURS: (50, 1), "FDK": (49, 0.9)}),
    ]
    return written(tmp_path, lines)


def test_gains_are_over_the_best_other_method_of_each_case(scripts, table, capsys):
    scripts("over_best_other").main([str(table)])
    told = capsys.readouterr().out.splitlines()
    # Over 33 dB and 31 dB; over 0.95 and 0.85. Variants with the prior are no competitors.
    assert f"| head | {LOUD} | 2 | +0.50 dB | -1.00 dB (pt_1 12) | +0.000 | -0.050 | 1 |" in told
    assert f"| head | {QUIET} | 1 | +3.00 dB | +3.00 dB (pt_1 24) | +0.050 | +0.050 | 0 |" in told
    # The table does not say the kind of sts_012; the split does.
    assert f"| limb | {LOUD} | 1 | +1.00 dB | +1.00 dB (sts_012 24) | +0.050 | +0.050 | 0 |" in told
    like = f"| **like the training** | {LOUD} | 3 | +0.67 dB | -1.00 dB (pt_1 12) | +0.017 | -0.050 | 1 |"
    unlike = f"| **unlike the training** | {LOUD} | 2 | +0.47 dB | -0.05 dB (tooth 24) | +0.075 | +0.050 | 0 |"
    assert like in told
    assert unlike in told
    assert "SIRT is missing in 1 of 6 cases." in told
    assert not any("DiffNR is missing" in line for line in told)


def test_groups_may_be_others(scripts, table, capsys):
    scripts("over_best_other").main([str(table), "--by", "views"])
    told = capsys.readouterr().out
    assert "| **like the training** | 12 | 1 | -1.00 dB" in told
    assert "| **like the training** | 24 | 3 | +2.00 dB" in told


def test_two_results_of_one_run_are_refused(scripts, table, tmp_path):
    lines = [("pt_1", "head", 24, LOUD, {"FDK": (30.5, 0.95)})]
    other = written(tmp_path, lines, "other.csv")
    with pytest.raises(ValueError, match="another result of FDK on pt_1 head tigre"):
        scripts("over_best_other").read_scores([table, other])


def test_a_table_without_our_method_is_refused(scripts, table):
    with pytest.raises(SystemExit, match="no case has Ours and another method"):
        scripts("over_best_other").main([str(table), "--ours", "Ours"])


def test_the_stored_tables_are_read(scripts, capsys):
    scripts("over_best_other").main([])
    assert "| head |" in capsys.readouterr().out


def test_less_noise_that_makes_worse_is_told(scripts, tmp_path, capsys):
    def lines(case, *psnr):
        noises = ["none", "physical 1e+06±10", "physical 10000±10", LOUD]
        return [
            (case, "head", 24, noise, {OURS: (value, 0.9)})
            for noise, value in zip(noises, psnr, strict=True)
        ]

    rows = [*lines("pt_1", 40, 38, 35, 50), *lines("pt_3", 37.9, 38, 35, 50)]
    table = written(tmp_path, rows)
    scripts("less_noise").main([str(table)])
    told = capsys.readouterr().out
    assert "| case | views | 10000 photons | 1e+06 photons | none |" in told
    assert (
        "| pt_1 | 24 | 35.00 dB / 0.900 | 38.00 dB / 0.900 | 40.00 dB / 0.900 | 0.00 dB | yes |"
        in told
    )
    assert "| 0.10 dB | **no** |" in told
    assert "1 of 2 scans are monotone in PSNR." in told
    scripts("less_noise").main([str(table), "--slack_db", "0.2"])
    assert "2 of 2 scans" in capsys.readouterr().out


def published_tables(repository):
    """Yield (where, notes, rows) of the tables that stand beside numbers of DiffNR."""
    for path in sorted((repository / "experiments" / "diffnr").glob("*/table.yaml")):
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
        yield path.parent.name, " ".join(table["notes"]), table["rows"]


def test_a_table_says_that_its_slicefixer_is_not_the_papers(repository):
    for where, notes, rows in published_tables(repository):
        untrained = [
            row for row in rows.values() if "diffnr/paper" in row["method"] and "prior" not in row
        ]
        said = "The SliceFixer is the one that comes with the package" in notes
        assert said == bool(untrained), where


def test_the_classical_methods_and_samplers_of_a_table_are_run_as_in_their_papers(repository):
    for where, notes, rows in published_tables(repository):
        methods = [row["method"] for row in rows.values() if "method" in row]
        known = [m for m in methods if m.startswith(("sart", "asd_pocs", "dds", "diffusion_mbir"))]
        assert all("methods/uniform.yaml" in method for method in known), where
        sampled = any(method.startswith(("dds", "diffusion_mbir")) for method in known)
        assert ("the prior of slices that comes with the package" in notes) == sampled, where
