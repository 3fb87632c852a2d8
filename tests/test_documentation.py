"""What README, CONTRIBUTING and the pages say can be done, can be done."""

import os
import re
import subprocess
import sys

import pytest

from tests.shared import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))
    missing = [t for t in targets if not t.startswith(("https://", "mailto:")) and not (page.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_of_make_exist(page):
    known = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    commands = re.findall(r"(?:^|`)make ([a-z ]+)", page.read_text("utf-8"), re.MULTILINE)
    asked = {target for command in commands for target in command.split()}
    assert asked <= known


def test_python_of_every_page_can_be_parsed():
    for page in PAGES:
        for block in _blocks(page.read_text("utf-8"), "python"):
            compile(block, str(page), "exec")


def test_the_first_steps_run(tmp_path):
    code = "\n".join(_blocks((ROOT / "docs" / "start.md").read_text("utf-8"), "python"))
    assert "mech.simulate" in code
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    command = [sys.executable, "-W", "error", "-c", code]
    answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "pk.png").read_bytes().startswith(b"\x89PNG")
    assert "subject" in answer.stdout
