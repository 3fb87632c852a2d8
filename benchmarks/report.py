"""What was measured, kept: `results.json`, work–precision pictures, and the table of `docs/performance.md`."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.solving import Result

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- results of the benchmarks: begin -->", "<!-- results of the benchmarks: end -->"


def machine() -> dict[str, Any]:
    """Processor, number of cores, system and Python."""
    import os

    info = Path("/proc/cpuinfo")
    text = info.read_text("utf-8") if info.exists() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    vector = next((f for f in ("avx512f", "avx2") if f" {f}" in text), "")
    found = {"processor": names[0] if names else platform.processor(), "vectors": vector, "cores": os.cpu_count()}
    return found | {"system": platform.system(), "python": platform.python_version()}


def as_json(results: Sequence[Result]) -> dict[str, Any]:
    """Every figure: `date`, `machine` and `rows`, each with its curves; infinities and NaN as null."""
    return _finite({"date": date.today().isoformat(), "machine": machine(), "rows": [asdict(r) for r in results]})


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value


def write(results: Sequence[Result], out: Path) -> None:
    """`results.json` and one picture a row in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(as_json(results), indent=1, allow_nan=False), "utf-8")
    for result in results:
        if result.row.peers and result.curves:
            _picture(result, out / f"{result.row.name}.png")


def _picture(result: Result, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for curve in result.curves:
        points = [p for p in curve.points if 0 < p.error < float("inf")]
        axes.loglog([p.error for p in points], [p.seconds * 1e6 for p in points], "o-", label=curve.tool)
    axes.set(xlabel="largest error", ylabel="CPU time, µs a patient", title=result.row.name)
    axes.invert_xaxis()
    axes.legend()
    figure.savefig(path, dpi=120)


def table(results: Sequence[Result]) -> str:
    """The results as Markdown, with machine, versions and date."""
    about = machine()
    versions: dict[str, str] = {}
    for result in results:
        for curve in result.curves:
            versions |= curve.versions
    told = ", ".join(f"{name} {number}" for name, number in sorted(versions.items()))
    head = f"{date.today():%d %B %Y}; {about['processor']} ({about['vectors'] or 'no wide vectors'}), "
    rows = ["| row | ratio | target | against | error |", "|---|---:|---:|---|---:|"]
    rows += [
        f"| `{r.row.name}` | {'–' if r.ratio is None else f'{r.ratio:.3g}'} | {r.row.target:g} "
        f"| {r.against or r.problem} | {'–' if r.error is None else f'{r.error:.0e}'} |"
        for r in results
    ]
    return f"{head}{about['cores']} cores; {told}.\n\n" + "\n".join(rows)


def into_page(results: Sequence[Result]) -> None:
    """Replaces the table of `docs/performance.md`."""
    text = PAGE.read_text("utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{after}", "utf-8")
