"""What a validation found: one line a check, as text, as HTML and as labelled arrays."""

import base64
import io
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from html import escape
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import xarray as xr

from mechanistic.model import FrozenMap
from mechanistic.sbml.writer import replace_file

LINE: Final = 120
"""Width of the text table."""

SHOWN: Final = 50
"""Details of a check that the page shows."""

DRAWN: Final = 24
"""Most quantities in the picture; those that agree least come first."""

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem;
  color: #1b1f24; background: #fff; }
h1 { font-size: 1.5rem; } img { max-width: 100%; }
"""
_TABLE_STYLE: Final = """
.kinetwin-checks { border-collapse: collapse; }
.kinetwin-checks td, .kinetwin-checks th { padding: .3rem .9rem .3rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid #ddd; }
.kinetwin-checks td:nth-child(2) { white-space: nowrap; }
.kinetwin-checks ul { margin: .3rem 0; padding-left: 1.2rem; }
.kinetwin-good { color: #00734f; } .kinetwin-look { color: #a85a00; font-weight: bold; }
.kinetwin-wrong { color: #c22f1f; font-weight: bold; } .kinetwin-open { color: #777; }
"""


@final
class Verdict(Enum):
    """How a check ended."""

    GOOD = "✓"
    LOOK = "!"
    WRONG = "✗"
    OPEN = "–"

    @property
    def meaning(self) -> str:
        """The verdict in words."""
        return {
            Verdict.GOOD: "as it should be",
            Verdict.LOOK: "worth a look",
            Verdict.WRONG: "wrong",
            Verdict.OPEN: "not judged",
        }[self]


@final
@dataclass(frozen=True)
class Check:
    """One line of a validation.

    Attributes:
        name: what was checked.
        verdict: how it ended.
        sentence: what was found, with numbers.
        numbers: the same numbers by name, for programs.
        details: more sentences, where there are any.
        seconds: how long it took.
        trajectories: what was compared, dims `(origin, time)`, where the check compares simulations; NaN where only
            one of them is known.
    """

    name: str
    verdict: Verdict
    sentence: str
    numbers: Mapping[str, float] = field(default_factory=FrozenMap)
    details: tuple[str, ...] = ()
    seconds: float = 0.0
    trajectories: xr.Dataset | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", FrozenMap({name: float(value) for name, value in self.numbers.items()}))


@final
@dataclass(frozen=True, repr=False)
class Validation:
    """Every check of a model; `print` shows it as a table.

    Attributes:
        model: name of the model.
        checks: one a line.
        horizon: time up to which the model was simulated, NaN where none could be chosen.
        time_unit: unit of time, as text.
        interrupted: whether the checks were stopped before the last one.
    """

    model: str
    checks: tuple[Check, ...]
    horizon: float
    time_unit: str = ""
    interrupted: bool = False

    @property
    def ok(self) -> bool:
        """Whether no check found anything wrong; what could not be checked is not held against the model."""
        return all(check.verdict is not Verdict.WRONG for check in self.checks)

    def __getitem__(self, name: str) -> Check:
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"no check is called {name!r}; there are {', '.join(check.name for check in self.checks)}")

    @property
    def headline(self) -> str:
        """The whole outcome in a line."""
        counted = Counter(check.verdict for check in self.checks)
        counts = ", ".join(f"{counted[verdict]} {verdict.value}" for verdict in Verdict if counted[verdict])
        until = "" if np.isnan(self.horizon) else f" up to t = {self.horizon:g} {self.time_unit}".rstrip()
        outcome = "nothing wrong" if self.ok else "something is wrong"
        cut = "; interrupted" if self.interrupted else ""
        return f"`{self.model}`{until}: {outcome} ({counts}){cut}"

    def __str__(self) -> str:
        width = max((len(check.name) for check in self.checks), default=0)
        lines = [self.headline]
        for check in self.checks:
            first = f"  {check.verdict.value}  {check.name.ljust(width)}  "
            rest = " " * len(first)
            lines += textwrap.wrap(check.sentence, LINE, initial_indent=first, subsequent_indent=rest)
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(map(_row, self.checks))
        return (
            f"<style>{_TABLE_STYLE}</style><p>{escape(self.headline)}</p><table class='kinetwin-checks'>"
            f"<tr><th></th><th>check</th><th>what was found</th></tr>{rows}</table>"
        )

    def to_html(self, path: str | Path) -> None:
        """Writes a page that needs nothing beside it: the table, and a picture of the simulations that were compared.

        The file is replaced as a whole or not at all.
        """
        legend = ", ".join(f"{verdict.value} {verdict.meaning}" for verdict in Verdict)
        body = [
            f"<h1>Validation of {escape(self.model)}</h1>{self._repr_html_()}<p>{escape(legend)}.</p>",
            *(f"<h2>{escape(title)}</h2><img alt='{escape(title)}' src='{data}'>" for title, data in self._pictures()),
        ]
        head = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(self.model)}</title>"
        replace_file(Path(path), "\n".join([head, f"<style>{_STYLE}</style>", *body, "</html>\n"]))

    def dataset(self) -> xr.Dataset:
        """Labelled arrays: the verdict, sentence and seconds of each check, and its numbers as `check: number`."""
        names = [check.name for check in self.checks]
        columns: dict[str, tuple[str, list[Any]]] = {
            "verdict": ("check", [check.verdict.name for check in self.checks]),
            "sentence": ("check", [check.sentence for check in self.checks]),
            "seconds": ("check", [check.seconds for check in self.checks]),
        }
        numbers = {f"{c.name}: {key}": value for c in self.checks for key, value in c.numbers.items()}
        attributes = {"model": self.model, "horizon": self.horizon, "time_unit": self.time_unit, "ok": int(self.ok)}
        return xr.Dataset({**columns, **numbers}, coords={"check": names}, attrs=attributes)

    def record(self) -> dict[str, Any]:
        """The report as plain dictionaries, lists, texts and numbers, for JSON."""
        checks = [
            {
                "name": check.name,
                "verdict": check.verdict.name,
                "sentence": check.sentence,
                "numbers": dict(check.numbers),
                "details": list(check.details),
                "seconds": check.seconds,
            }
            for check in self.checks
        ]
        return {"model": self.model, "ok": self.ok, "interrupted": self.interrupted, "horizon": self.horizon,
                "time_unit": self.time_unit, "checks": checks}  # fmt: skip

    def plot(self) -> Any:
        """A matplotlib figure of the simulations that were compared with roadrunner; None where none were."""
        from mechanistic.plots import comparison

        found = [check.trajectories for check in self.checks if check.trajectories is not None]
        if not found:
            return None
        # The file as it stands comes after our own text of it, and says more.
        both = found[-1]
        names = [str(name) for name in both.data_vars]
        # A concentration has the shape of its amount.
        return comparison(both, [name for name in names if name[:1] != "[" or name[1:-1] not in names][:DRAWN])

    def _pictures(self) -> Iterator[tuple[str, str]]:
        figure = self.plot()
        if figure is not None:
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=110)
            data = base64.b64encode(buffer.getvalue()).decode("ascii")
            yield "Simulations: lines from here, dots from libRoadRunner", f"data:image/png;base64,{data}"


def _row(check: Check) -> str:
    kind = check.verdict.name.lower()
    more = "".join(f"<li>{escape(text)}</li>" for text in check.details[:SHOWN])
    if len(check.details) > SHOWN:
        more += f"<li>… and {len(check.details) - SHOWN} more</li>"
    details = f"<details><summary>details</summary><ul>{more}</ul></details>" if more else ""
    mark = f"<td class='kinetwin-{kind}' title='{check.verdict.meaning}'>{check.verdict.value}</td>"
    return f"<tr>{mark}<td>{escape(check.name)}</td><td>{escape(check.sentence)}{details}</td></tr>"
