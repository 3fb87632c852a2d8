"""The session on the first screen runs as it stands."""

import re
import shutil
from functools import partial
from importlib.resources import files

import matplotlib as mpl
import pytest

import hybrid
from hybrid.demo import experiment
from tests.shared import ROOT


@pytest.fixture
def session() -> str:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    return next(block for block in blocks if "hybrid.fit" in block)


def test_the_session_runs_on_the_files_of_the_demonstration(session, tmp_path, monkeypatch):
    mpl.use("Agg")
    shutil.copy(str(files("hybrid.demo") / "models" / "warfarin_pkpd.xml"), tmp_path)
    table, _ = experiment.make_table(12, seed=0)
    table.to_csv(tmp_path / "cohort.csv", index=False)
    monkeypatch.chdir(tmp_path)
    # The same calls with a shorter descent and fewer patients: what the page promises is that they work together.
    short = hybrid.FitOptions(adam_steps=2, rounds=1, round_steps=2)
    monkeypatch.setattr(hybrid, "fit", partial(hybrid.fit, options=short, progress=False))
    names: dict[str, object] = {}
    exec(compile(session.replace("sample(1000)", "sample(20)"), "README.md", "exec"), names)
    assert (tmp_path / "fits" / "warfarin").is_dir()
    assert names["effect"].sizes == {"subject": 20, "time": 43}


def test_the_session_fits_on_the_first_screen(session):
    assert len([line for line in session.splitlines() if line]) <= 15
