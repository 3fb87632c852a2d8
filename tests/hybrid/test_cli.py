"""The command `kinetwin`, run as a user runs it: on files, in a process of its own where that matters."""

import math
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hybrid import cli
from tests.shared import ROOT

# One compartment, oral: S1 → S2 → , with S2 in a compartment of 10 L.
SBML = """<?xml version="1.0" encoding="UTF-8"?>
<sbml xmlns="http://www.sbml.org/sbml/level3/version1/core" level="3" version="1">
  <model id="oral">
    <listOfCompartments>
      <compartment id="body" spatialDimensions="3" size="10" constant="true"/>
    </listOfCompartments>
    <listOfSpecies>
      <species id="gut" compartment="body" initialAmount="0" hasOnlySubstanceUnits="true"
               boundaryCondition="false" constant="false"/>
      <species id="central" compartment="body" initialAmount="0" hasOnlySubstanceUnits="true"
               boundaryCondition="false" constant="false"/>
    </listOfSpecies>
    <listOfParameters>
      <parameter id="ka" value="1.5" constant="true"/>
      <parameter id="k" value="0.25" constant="true"/>
    </listOfParameters>
    <listOfReactions>
      <reaction id="absorption" reversible="false" fast="false">
        <listOfReactants><speciesReference species="gut" stoichiometry="1" constant="true"/></listOfReactants>
        <listOfProducts><speciesReference species="central" stoichiometry="1" constant="true"/></listOfProducts>
        <kineticLaw><math xmlns="http://www.w3.org/1998/Math/MathML">
          <apply><times/><ci>ka</ci><ci>gut</ci></apply></math></kineticLaw>
      </reaction>
      <reaction id="elimination" reversible="false" fast="false">
        <listOfReactants><speciesReference species="central" stoichiometry="1" constant="true"/></listOfReactants>
        <kineticLaw><math xmlns="http://www.w3.org/1998/Math/MathML">
          <apply><times/><ci>k</ci><ci>central</ci></apply></math></kineticLaw>
      </reaction>
    </listOfReactions>
  </model>
</sbml>
"""

ANTIMONY = """
model oral
  gut -> central; ka*gut
  central -> ; k*central
  gut = 0; central = 0; ka = 1.5; k = 0.25
end
"""


@pytest.fixture
def sbml(tmp_path):
    path = tmp_path / "oral.xml"
    path.write_text(SBML, "utf-8")
    return path


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def bateman(times, dose, ka=1.5, k=0.25):
    """The amount in `central` after a dose in `gut` at 0 (Bateman 1910)."""
    times = np.asarray(times)
    return dose * ka / (ka - k) * (np.exp(-k * times) - np.exp(-ka * times))


def test_a_table_is_printed(sbml, capsys):
    assert run("simulate", sbml, "--times", 0, 12, 25, "--dose", "gut:100") == 0
    lines = capsys.readouterr().out.splitlines()
    names = lines[0].split()
    rows = np.array([[float(number) for number in line.split()] for line in lines[2:]])
    assert {"gut", "central"} <= set(names)
    assert np.allclose(rows[:, 0], np.linspace(0, 12, 25))
    # Six digits are printed: half a unit of the sixth.
    central = rows[:, 1 + names.index("central")]
    assert np.allclose(central, bateman(rows[:, 0], 100.0), rtol=1e-5, atol=1e-5)


def test_parameters_and_later_doses(sbml, tmp_path):
    output = tmp_path / "pk.csv"
    doses = ["--dose", "gut:100", "--dose", "gut:50@6"]
    assert run("simulate", sbml, "--times", 0, 12, 25, "--set", "k=0.5", *doses, "--output", output) == 0
    table = pd.read_csv(output)
    t = table["time"].to_numpy()
    expected = bateman(t, 100.0, k=0.5) + np.where(t >= 6, bateman(np.maximum(t - 6, 0), 50.0, k=0.5), 0.0)
    # The default tolerance bounds the local error by 1e-6 of the amount; a few dozen steps add up.
    assert np.allclose(table["central"], expected, rtol=1e-4, atol=1e-4)


def test_netcdf_is_labelled(sbml, tmp_path):
    output = tmp_path / "pk.nc"
    assert run("simulate", sbml, "--times", 0, 12, 25, "--dose", "gut:100", "--output", output) == 0
    with xr.open_dataset(output, engine="h5netcdf") as data:
        assert data["central"].dims == ("time",)
        assert np.allclose(data["central"], bateman(data["time"], 100.0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_pictures(sbml, tmp_path, suffix, start):
    output = tmp_path / f"pk{suffix}"
    assert run("simulate", sbml, "--times", 0, 12, 25, "--dose", "gut:100", "--output", output) == 0
    assert output.read_bytes().startswith(start)


def test_antimony_is_told_by_its_content(sbml, tmp_path):
    other = tmp_path / "oral.txt"
    other.write_text(ANTIMONY, "utf-8")
    tables = []
    for path in (sbml, other):
        assert run("simulate", path, "--times", 0, 12, 25, "--dose", "gut:100", "--output", tmp_path / "x.csv") == 0
        tables.append(pd.read_csv(tmp_path / "x.csv"))
    # The same equations: any difference is rounding.
    assert np.allclose(tables[0]["central"], tables[1]["central"], rtol=1e-9)


def test_every_bad_option_is_listed(sbml, capsys):
    bad = ["--times", "0", "ten", "5", "--set", "ka", "--set", "k=fast", "--dose", "gut=100", "--dose", "gut:1@noon"]
    assert run("simulate", sbml, *bad, "--output", "table.xlsx") == cli.ERROR
    captured = capsys.readouterr()
    assert captured.out == ""
    for part in ("--times 0 ten 5", "--set ka", "--set k=fast", "--dose gut=100", "--dose gut:1@noon", "table.xlsx"):
        assert part in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "kA=2"], "`kA`"),
        (["--dose", "gutt:100"], "gut"),
        (["--dose", "gut:-1"], "-1"),
        (["--times", "5", "1", "3"], "START"),
        (["--times", "0", "nan", "3"], "two numbers"),
        (["--times", "0", "1", "0"], "two numbers"),
        (["--output", "nowhere/pk.csv"], "nowhere"),
    ],
)
def test_what_the_model_does_not_have_is_said(sbml, capsys, options, message):
    assert run("simulate", sbml, *options) == cli.ERROR
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("kinetwin: ")


def test_names_of_parameters_and_states_are_checked_together(sbml, capsys):
    assert run("simulate", sbml, "--set", "kA=2", "--set", "zz=1", "--dose", "gutt:100") == cli.ERROR
    error = capsys.readouterr().err
    assert "no parameter `kA` (did you mean `k" in error
    assert "no parameter `zz`: body, ka, k" in error
    assert "no state `gutt` (did you mean `gut`?)" in error


def test_a_missing_file_is_named(tmp_path, capsys):
    assert run("simulate", tmp_path / "absent.xml") == cli.ERROR
    assert capsys.readouterr().err == f"kinetwin: {tmp_path / 'absent.xml'}: No such file or directory\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<sbml", "not well-formed"),
        (b"<a></a>", "the root element is <a>"),
        (b"<!DOCTYPE html>\n<html></html>", "a web page"),
        (b"this is no model", "is taken for Antimony"),
        (b'{"model": 1}', "is taken for Antimony"),
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"\x89PNG\r\n\x1a\n", "no text in UTF-8"),
        (b"PK\x03\x04\x14\x00", "zip archive"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"model nothing\nend\n", "it has no state and no observable"),
    ],
)
def test_a_file_that_is_no_model(tmp_path, capsys, content, message):
    path = tmp_path / "broken.xml"
    path.write_bytes(content)
    assert run("simulate", path) == cli.ERROR
    error = capsys.readouterr().err
    assert error.startswith("kinetwin: ")
    assert message in error


def test_sbml_in_another_encoding_is_sbml(tmp_path, capsys):
    path = tmp_path / "oral.xml"
    path.write_text(SBML.replace("UTF-8", "UTF-16"), "utf-16")
    assert run("simulate", path, "--times", 0, 12, 2) == 0
    assert "central" in capsys.readouterr().out


def test_an_output_is_whole_or_absent(tmp_path):
    target = tmp_path / "result.csv"
    target.write_text("before", "utf-8")

    def stop_half_way(path: Path) -> None:
        path.write_text("half", "utf-8")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cli.write_whole(target, stop_half_way)
    assert target.read_text("utf-8") == "before"
    assert list(tmp_path.iterdir()) == [target]
    cli.write_whole(target, lambda path: path.write_text("after", "utf-8"))
    assert target.read_text("utf-8") == "after"
    mask = os.umask(0)
    os.umask(mask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_model_without_faults_is_valid(sbml, tmp_path, capsys):
    pytest.importorskip("roadrunner")
    page = tmp_path / "report.html"
    assert run("validate", sbml, "--horizon", 12, "--html", page) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("`oral` up to t = 12: nothing wrong")
    assert "roadrunner, the file" in captured.out
    assert captured.err == f"wrote {page}\n"
    assert page.read_text("utf-8").startswith("<!doctype html>")


def test_antimony_is_validated_as_well(tmp_path, capsys):
    pytest.importorskip("roadrunner")
    path = tmp_path / "oral.ant"
    path.write_text(ANTIMONY, "utf-8")
    assert run("validate", path, "--horizon", 12) == 0
    assert "roadrunner, our SBML" in capsys.readouterr().out


def test_a_failed_check_is_an_exit_status(tmp_path, capsys):
    pytest.importorskip("roadrunner")
    path = tmp_path / "sinking.xml"
    path.write_text(SBML.replace("<ci>central</ci>", "<cn>1</cn>"), "utf-8")
    assert run("validate", path, "--horizon", 12) == cli.WRONG
    assert "go below zero" in capsys.readouterr().out


def test_bad_options_of_validate_are_listed_together(sbml, capsys):
    bad = ["--horizon", "-3", "--html", "nowhere/report.html", "--seconds", "soon"]
    assert run("validate", sbml, *bad) == cli.ERROR
    error = capsys.readouterr().err
    assert "--seconds soon" in error
    assert "--horizon -3" in error
    assert "nowhere" in error


def test_a_report_is_a_file(sbml, tmp_path, capsys):
    assert run("validate", sbml, "--html", tmp_path) == cli.ERROR
    assert "this is a folder; name the file" in capsys.readouterr().err


def test_a_file_that_is_no_model_is_not_validated(tmp_path, capsys):
    path = tmp_path / "broken.xml"
    path.write_text("<sbml", "utf-8")
    assert run("validate", path) == cli.ERROR
    assert capsys.readouterr().err.startswith("kinetwin: ")


def test_the_demo_is_handed_its_folder_and_seed(tmp_path, monkeypatch):
    calls = []
    from hybrid import demo

    monkeypatch.setattr(demo, "run", lambda out, seed: calls.append((out, seed)))
    assert run("demo", "--out", tmp_path, "--seed", 3) == 0
    assert run("demo") == 0
    assert calls == [(tmp_path, 3), (Path("out"), 0)]


def test_an_interrupt_is_said_without_a_traceback(sbml, capsys, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "read_model", interrupted)
    assert run("simulate", sbml) == cli.INTERRUPTED
    assert capsys.readouterr().err == "kinetwin: interrupted\n"


def test_the_version(capsys):
    try:
        installed = version("kinetwin")
    except PackageNotFoundError:
        pytest.skip("kinetwin is not installed here, only checked out")
    with pytest.raises(SystemExit) as stop:
        run("--version")
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"kinetwin {installed}\n"


@pytest.mark.parametrize("arguments", [[], ["simulate"], ["fly"]])
def test_a_command_that_is_not_there(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == cli.ERROR
    assert "usage: kinetwin" in capsys.readouterr().err


def test_a_reader_that_stops_early_is_no_error(sbml):
    """`kinetwin simulate … | head -n 1`, with more output than a pipe holds."""
    command = [sys.executable, "-m", "hybrid.cli", "simulate", str(sbml), "--times", "0", "12", "5000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait() == 0
    assert errors == b""


def test_numbers_are_finite():
    assert cli._number("1e3") == 1000.0
    assert cli._number("nan") is None
    assert cli._number("inf") is None
    assert math.isclose(cli._number(" 0.5 "), 0.5)
