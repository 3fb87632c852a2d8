"""`environment.yml` says what `pyproject.toml` says, so that a conda user gets what a pip user gets."""

import re
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

from tests.syntax import PACKAGES, ROOT, imports, sources

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

CONDA_NAMES = {"torch": "pytorch"}
# conda has no extras: what an extra brings is a package of its own.
EXTRAS = {"h5netcdf[h5py]": "h5py"}
# Not distributions that the project asks pip for.
INFRASTRUCTURE = {"python", "pip", "--editable"}

# Distributions whose module has another name.
MODULES = {"libroadrunner": "roadrunner", "python-libsbml": "libsbml"}


def _canonical(requirement: Requirement) -> tuple[str, frozenset[str]]:
    """Name and bounds, in any order."""
    return CONDA_NAMES.get(requirement.name, requirement.name), frozenset(map(str, requirement.specifier))


def _declared() -> set[tuple[str, frozenset[str]]]:
    extras = PROJECT["optional-dependencies"]
    texts = [*PROJECT["dependencies"], *(text for names in extras.values() for text in names)]
    brought = {(name, frozenset()) for text in texts for key, name in EXTRAS.items() if text.startswith(key)}
    return {_canonical(Requirement(text)) for text in texts} | brought


def _environment() -> dict[str, str]:
    """Name to bounds of every `- name>=bound` line."""
    text = (ROOT / "environment.yml").read_text("utf-8").partition("dependencies:")[2]
    lines = [line.strip() for line in text.splitlines()]
    entries = [line[2:] for line in lines if line.startswith("- ") and not line.endswith(":")]
    matches = [re.match(r"([\w.-]+)(.*)", entry) for entry in entries]
    return {match[1]: match[2] for match in matches if match is not None}


def test_the_same_distributions_with_the_same_bounds():
    found = {_canonical(Requirement(n + b)) for n, b in _environment().items() if n not in INFRASTRUCTURE}
    missing, surplus = _declared() - found, found - _declared()
    assert not missing, f"environment.yml lacks {sorted(missing)}"
    assert not surplus, f"environment.yml has, and pyproject.toml has not, {sorted(surplus)}"


def test_the_same_python():
    assert _environment()["python"] == PROJECT["requires-python"]


def test_no_distribution_is_asked_for_twice():
    text = (ROOT / "environment.yml").read_text("utf-8")
    names = re.findall(r"^\s+- ([\w-]+)(?![\w-]*:)", text, re.MULTILINE)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_library_that_a_package_imports_is_a_dependency(package):
    asked = {Requirement(text).name for text in PROJECT["dependencies"]}
    modules = {MODULES.get(name, name) for name in asked}
    code = sources(package)
    known = {source.module for source in code}
    found = {each.top for source in code for each in imports(source, known)}
    assert not (found - sys.stdlib_module_names) - modules - set(PACKAGES)
