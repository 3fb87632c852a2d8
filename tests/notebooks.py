"""Executes the notebooks in order: `python -m tests.notebooks OUTPUT [NAME ...]`."""

import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets.config import Config

from tests.shared import ROOT

CELL_TIMEOUT_S = 900


def execute(source: Path, target: Path) -> CellExecutionError | None:
    """Runs a notebook in its own folder and writes the executed copy, also when a cell fails; returns that failure."""
    notebook = nbformat.read(source, as_version=4)
    failure = None
    with tempfile.TemporaryDirectory(prefix="kernel") as folder:
        # Sockets in a private folder instead of ports: nothing listens on the network, and two runs cannot meet.
        sockets = Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/socket"}})
        place = {"metadata": {"path": str(source.parent)}}
        client = NotebookClient(notebook, timeout=CELL_TIMEOUT_S, resources=place, config=sockets)
        try:
            client.execute()
        except CellExecutionError as error:
            failure = error
    nbformat.write(notebook, target)
    return failure


def main(output: Path, names: list[str]) -> int:
    """Executes every notebook, or those whose name starts with one of `names`; returns the exit status."""
    chosen = sorted(ROOT.glob("notebooks/*.ipynb"))
    if names:
        chosen = [path for path in chosen if path.name.startswith(tuple(names))]
    if not chosen:
        print(f"no notebook of {ROOT / 'notebooks'} to execute", file=sys.stderr)
        return 1
    output.mkdir(parents=True, exist_ok=True)
    failed = 0
    for number, path in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {path.name} ...", end=" ", flush=True)
        started = time.monotonic()
        failure = execute(path, output / path.name)
        print(f"{'failed' if failure else 'ok'} ({time.monotonic() - started:.0f} s)", flush=True)
        if failure is not None:
            failed += 1
            print(failure, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m tests.notebooks OUTPUT [NAME ...]")
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
