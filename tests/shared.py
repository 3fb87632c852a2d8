"""Where tests find the reference data that stands beside the repository."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def shared_folder() -> Path:
    """The folder of reference data: `KINETWIN_SHARED`, or `../shared` beside the repository."""
    return Path(os.environ.get("KINETWIN_SHARED", ROOT.parent / "shared"))


def shared_file(name: str) -> Path:
    """The path of a file or folder of the reference data; skips the calling test where it is absent."""
    path = shared_folder() / name
    if not path.exists():
        pytest.skip(f"reference data {name!r} not found; set KINETWIN_SHARED to the folder that holds it")
    return path
