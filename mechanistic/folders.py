"""Where things are kept between runs."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder in the environment variable `KINETWIN_CACHE`, otherwise `kinetwin` in the user's cache folder.

    Raises:
        RuntimeError: the user has no home.
    """
    chosen = os.environ.get("KINETWIN_CACHE")
    if chosen:
        return Path(chosen)
    shared = os.environ.get("XDG_CACHE_HOME", "")
    # The specification of the XDG folders has a relative path ignored.
    base = Path(shared) if os.path.isabs(shared) else Path.home() / ".cache"
    return base / "kinetwin"
