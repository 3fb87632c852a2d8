"""Event tables in NONMEM's style: columns become records and doses, or one error that lists every problem.

Columns (any case): `id`, `time`, `amt`, `rate`, `dur`, `cmt`, `evid`, `mdv`, `dv`, `dvid`, `addl`, `ii`, `ss`, `cens`
and covariates. An empty cell, `.` or `NA` is missing. Records at one time count in the order of the file; additional
doses (`addl`) come before a record at the same time, as in NONMEM 7.4.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Final, final

import numpy as np
import pandas as pd

from mechanistic.errors import ListedError, nearest

STANDARD: Final = ("id", "time", "amt", "rate", "dur", "cmt", "evid", "mdv", "dv", "dvid", "addl", "ii", "ss", "cens")
OBSERVATION, DOSE, OTHER = 0, 1, 2

_MISSING: Final = frozenset({"", ".", "na", "nan", "none", "<na>"})
_WHOLE: Final = re.compile(r"([+-]?\d+)\.0*")
_LISTED: Final = 50
_MOST_DOSES: Final = 100_000

Array = np.ndarray[Any, Any]


class TableError(ListedError):
    """A table that cannot be read as events; lists every problem with its row, column, value and remedy."""


@final
@dataclass(frozen=True)
class Dose:
    """One dose of an event table, after `addl` was written out: the time, the amount, and over how long."""

    subject: int
    time: float
    amount: float
    duration: float
    state: str


@final
@dataclass(frozen=True)
class Events:
    """What a table says, names resolved; records are in the order of the file, subjects in that of their first row.

    Attributes:
        ids: one label a subject.
        subject, time, value, observed, channel, before: the observation records, `(record,)` each.
        doses: every dose.
        start: first time of each subject, `(subject,)`.
        channels: names that `channel` points into.
        covariates: `(subject, covariate)`; text as an index into `categories`.
        categories: covariate name to its categories, for those given as text.
        notes: what was read and what was not used, for people.
    """

    ids: tuple[str, ...]
    subject: Array
    time: Array
    value: Array
    observed: Array
    channel: Array
    before: Array
    doses: tuple[Dose, ...]
    start: Array
    channels: tuple[str, ...]
    covariates: Array
    categories: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]


@final
class _Sheet:
    """The cells of a table by standard column name, and the problems found in it so far."""

    def __init__(self, frame: pd.DataFrame, columns: Mapping[str, str], covariates: Sequence[str]) -> None:
        self.problems: list[tuple[int, str]] = []
        self._parsed: dict[str, Array] = {}
        self.rows = len(frame)
        self.given = {str(name).strip(): frame.iloc[:, i].astype(object).to_numpy() for i, name in enumerate(frame)}
        self.used: set[str] = set()
        self._place = self._find(columns, covariates)
        self.labels = np.array([_label(cell) for cell in self.cells("id")], dtype=object)
        self.names = tuple(dict.fromkeys(self.labels))
        index = {label: i for i, label in enumerate(self.names)}
        self.subject = np.array([index[label] for label in self.labels], dtype=int)
        self.flag(self.labels == "", "id", "name the subject")

    def _find(self, columns: Mapping[str, str], covariates: Sequence[str]) -> dict[str, str]:
        """Standard name or covariate to the column of the table that holds it."""
        folded: dict[str, list[str]] = {}
        for name in self.given:
            folded.setdefault(name.lower(), []).append(name)
        wanted: dict[str, str] = {name: name for name in (*STANDARD, *covariates)}
        unknown = [name for name in columns if name.lower() not in STANDARD]
        problems = [
            f"`columns` renames `{name}`, which is not a standard column{nearest(name, STANDARD)}" for name in unknown
        ]
        wanted |= {name.lower(): other for name, other in columns.items() if name not in unknown}
        required = {"id", "time", "dv", *covariates, *(name.lower() for name in columns)}
        place = {}
        for name, column in wanted.items():
            found = [column] if column in self.given else folded.get(column.lower(), [])
            if len(found) > 1:
                problems.append(f"`{name}` is ambiguous: the table has {', '.join(f'`{f}`' for f in found)}")
            elif found:
                place[name] = found[0]
            elif name in required and name not in unknown:
                problems.append(
                    f"the column `{column}` is missing{nearest(column, self.given)}; the table has "
                    f"{', '.join(f'`{g}`' for g in self.given)}"
                )
        if not self.rows:
            problems.append("the table has no rows")
        if problems:
            raise TableError("the table cannot be read:", problems)
        self.used |= set(place.values())
        return place

    def has(self, name: str) -> bool:
        return name in self._place

    def cells(self, name: str) -> Array:
        return self.given[self._place[name]] if self.has(name) else np.full(self.rows, "", dtype=object)

    def numbers(self, name: str, missing: float = np.nan) -> Array:
        """The column as numbers; text and infinities are problems, an absent cell is `missing`."""
        if name not in self._parsed:
            values = np.array([_number(cell) for cell in self.cells(name)], dtype=float)
            self.flag(np.isinf(values), name, "give a number" if name == "time" else "give a number, or leave it empty")
            self._parsed[name] = np.where(np.isinf(values), np.nan, values)
        values = self._parsed[name]
        return np.where(np.isnan(values), missing, values)

    def flag(self, where: Array, column: str, advice: str | Callable[[int], str]) -> None:
        """Notes a problem for every row in `where`."""
        cells = self.cells(column)
        for row in map(int, np.flatnonzero(where)):
            self.note(row, f"`{column}` is {_shown(cells[row])}; {advice if isinstance(advice, str) else advice(row)}")

    def note(self, row: int, sentence: str) -> None:
        """Notes a problem of one row."""
        whose = f" (id {self.labels[row]})" if self.labels[row] else ""
        self.problems.append((row, f"row {row + 1}{whose}: {sentence}"))

    def check(self) -> None:
        """Raises what was found, in the order of the rows."""
        if self.problems:
            ordered = [text for _, text in sorted(self.problems, key=lambda problem: problem[0])]
            rest = len(ordered) - _LISTED
            more = [f"… and {rest} more problems"] if rest > 0 else []
            raise TableError(
                f"the table has {len(ordered)} problem(s); row 1 is the first below the header:",
                [*ordered[:_LISTED], *more],
            )


def read_events(
    table: Any,
    *,
    doses_to: str | None,
    compartments: Mapping[Any, str] | Sequence[str] | None,
    channels: Mapping[Any, str] | Sequence[str] | str | None,
    covariates: Sequence[str],
    columns: Mapping[str, str],
) -> Events:
    """The events of `table`; arguments as those of `Cohort.from_table`.

    Raises:
        TableError: lists every problem of the table.
    """
    frame = _frame(table)
    sheet = _Sheet(frame, columns, covariates)
    time = sheet.numbers("time")
    sheet.flag(_missing(sheet.cells("time")), "time", "give the time of the record")
    _check_order(sheet, time)
    kind, coded = _kinds(sheet)
    doses = _doses(sheet, kind, time, _targets(sheet, kind, coded, doses_to, compartments))
    channel, names = _channels(sheet, kind, channels)
    values, categories = _covariates(sheet, covariates)
    scored = kind == OBSERVATION
    value, excluded = sheet.numbers("dv"), sheet.numbers("mdv", 0.0)
    sheet.flag(~np.isin(excluded, (0.0, 1.0)), "mdv", "give 1 to leave the observation out, otherwise 0")
    sheet.flag(sheet.numbers("cens", 0.0) != 0, "cens", "censored observations are not supported yet")
    observed = scored & ~np.isnan(value) & (excluded != 1)
    if not observed.any():
        sheet.problems.append(
            (sheet.rows, "no row holds an observation: a `dv`, with `evid` and `mdv` 0 where present")
        )
    before = _stand_before(sheet, scored, time, doses)
    sheet.check()
    start = np.full(len(sheet.names), np.inf)
    np.minimum.at(start, sheet.subject, time)
    return Events(
        ids=sheet.names,
        subject=sheet.subject[scored],
        time=time[scored],
        value=value[scored],
        observed=observed[scored],
        channel=channel[scored],
        before=before[scored],
        doses=tuple(dose for _, dose in doses),
        start=start,
        channels=names,
        covariates=values,
        categories=categories,
        notes=_notes(sheet, kind, value, excluded, len(doses)),
    )


def _frame(table: Any) -> pd.DataFrame:
    if isinstance(table, pd.DataFrame):
        return table.reset_index(drop=True)
    if isinstance(table, Mapping):
        return pd.DataFrame(dict(table))
    if isinstance(table, str | PathLike):
        try:
            return pd.read_csv(table, dtype=str, keep_default_na=False, skipinitialspace=True)
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            problem = f"{table}: {' '.join(str(error).split())}; give comma-separated UTF-8 text with a header"
            raise TableError("the table cannot be read:", [problem]) from None
    raise TypeError(
        f"a table is a DataFrame, a mapping of columns or the path of a CSV file; got {type(table).__name__}"
    )


def _check_order(sheet: _Sheet, time: Array) -> None:
    last: dict[int, int] = {}
    for row, subject in enumerate(sheet.subject):
        if np.isnan(time[row]):
            continue
        if subject in last and time[row] < time[last[subject]]:
            sheet.note(
                row,
                f"`time` {time[row]:g} comes after {time[last[subject]]:g} (row {last[subject] + 1}); "
                "sort each subject by time",
            )
        last[subject] = row


def _kinds(sheet: _Sheet) -> tuple[Array, Array]:
    """OBSERVATION, DOSE or OTHER for each row, and the compartment that an RxODE code names (0: none)."""
    amount = sheet.numbers("amt", 0.0)
    if not sheet.has("evid"):
        return np.where(amount != 0, DOSE, OBSERVATION), np.zeros(sheet.rows, dtype=int)
    given = sheet.numbers("evid")
    sheet.flag(_missing(sheet.cells("evid")), "evid", "give 0 for an observation, 1 for a dose, 2 for neither")
    code = np.nan_to_num(given, nan=OTHER)
    # The older RxODE code is (infusion type, compartment, 01) in digits: 101 is a bolus into compartment 1.
    classic = (code >= 100) & (code % 100 == 1) & (code < 10_000)
    known = np.isin(code, (OBSERVATION, DOSE, OTHER)) | classic
    sheet.flag(~known, "evid", lambda row: _evid_advice(code[row]))
    sheet.flag(
        (code == OBSERVATION) & (amount != 0), "amt", "an observation (evid 0) has no amount; give evid 1 for a dose"
    )
    kind = np.where(classic, DOSE, np.where(known, code, OTHER)).astype(int)
    return kind, np.where(classic, code // 100, 0).astype(int)


def _evid_advice(code: float) -> str:
    if code in (3.0, 4.0):
        return "resets are not supported yet; give what follows the reset an id of its own"
    if code >= 10_000:
        return "infusions as start and stop records are not supported; give one dose with `rate` or `dur`"
    return "known are 0 (observation), 1 (dose), 2 (neither) and 101, 201, … (dose into compartment 1, 2, …)"


def _targets(sheet: _Sheet, kind: Array, coded: Array, doses_to: str | None, compartments: Any) -> list[str]:
    """The state that each dose row goes into; empty for other rows and where there is a problem."""
    known = _by_label(compartments)
    labels = [str(code) if code else _label(cell) for code, cell in zip(coded, sheet.cells("cmt"), strict=True)]
    labels = ["" if label == "0" and "0" not in known else label for label in labels]
    dosed = np.flatnonzero(kind == DOSE)
    # With one dosing compartment and no map of numbers, `doses_to` can only mean that compartment.
    single = doses_to is not None and not known and len({labels[row] for row in dosed} - {""}) == 1
    targets = [""] * sheet.rows
    for row in map(int, dosed):
        label = labels[row]
        if label in known:
            targets[row] = known[label]
        elif doses_to is not None and (not label or (single and _numeric(label))):
            targets[row] = doses_to
        elif not label:
            sheet.note(row, "the dose has no compartment; give `doses_to`, the state that it goes into")
        elif label in known.values() or (not known and not _numeric(label)):
            targets[row] = label
        else:
            choices = ", ".join(f"{key} → `{state}`" for key, state in known.items()) or "none"
            sheet.note(
                row,
                f"`cmt` is {label}, an unknown compartment{nearest(label, known.values())}; name its state in "
                f"`compartments` (known: {choices})",
            )
    return targets


def _doses(sheet: _Sheet, kind: Array, time: Array, targets: list[str]) -> list[tuple[int, Dose]]:
    """Every dose with the row that ordered it, or -1 where `addl` did."""
    dosed = kind == DOSE
    amount, rate, duration = sheet.numbers("amt"), sheet.numbers("rate", 0.0), sheet.numbers("dur", 0.0)
    more, every = sheet.numbers("addl", 0.0), sheet.numbers("ii", 0.0)
    if sheet.has("amt"):
        sheet.flag(dosed & _missing(sheet.cells("amt")), "amt", "give the amount of the dose")
    elif dosed.any():
        sheet.note(int(np.flatnonzero(dosed)[0]), "there are doses but no column `amt`")
    sheet.flag(dosed & (amount < 0), "amt", "a dose cannot be negative")
    modelled = dosed & np.isin(rate, (-1.0, -2.0))
    sheet.flag(modelled, "rate", "modelled rates and durations are not supported; give the rate or `dur`")
    sheet.flag(dosed & (rate < 0) & ~modelled, "rate", "give 0 for a bolus or a positive rate")
    sheet.flag(dosed & (duration < 0), "dur", "give 0 for a bolus or a positive duration")
    sheet.flag(dosed & (rate > 0) & (amount == 0), "rate", "an infusion needs its amount in `amt`")
    twice = dosed & (rate > 0) & (duration > 0) & ~np.isclose(rate * duration, amount, rtol=1e-6, atol=0)
    sheet.flag(
        twice,
        "rate",
        lambda row: f"with `dur` {duration[row]:g} and `amt` {amount[row]:g} it does not fit: amt = rate × dur",
    )
    sheet.flag(
        dosed & (sheet.numbers("ss", 0.0) != 0), "ss", "steady-state doses are not supported yet; give the doses"
    )
    countable = (more >= 0) & (more % 1 == 0) & (more <= _MOST_DOSES)
    sheet.flag(dosed & ~countable, "addl", f"give a whole number of additional doses, up to {_MOST_DOSES}")
    sheet.flag(dosed & (more > 0) & (every <= 0), "ii", "additional doses need a positive interval")
    if sheet.problems:
        return []
    length = np.where(duration > 0, duration, np.divide(amount, rate, out=np.zeros_like(rate), where=rate > 0))
    moments = [np.unique(time[sheet.subject == subject]) for subject in range(len(sheet.names))]
    doses = []
    for row in map(int, np.flatnonzero(dosed)):
        subject = int(sheet.subject[row])
        for k in range(int(more[row]) + 1):
            when = _snapped(time[row] + k * every[row], moments[subject]) if k else float(time[row])
            doses.append(
                (-1 if k else int(row), Dose(subject, when, float(amount[row]), float(length[row]), targets[row]))
            )
    return doses


def _snapped(when: float, moments: Array) -> float:
    """`when`, or the record's time that it differs from by rounding only (0.1 × 3 against 0.3)."""
    close = moments[np.abs(moments - when) <= 1e-9 * max(1.0, abs(when))]
    return float(close[0]) if len(close) else float(when)


def _stand_before(sheet: _Sheet, scored: Array, time: Array, doses: list[tuple[int, Dose]]) -> Array:
    """Whether an observation stands before the doses of its time."""
    orders: dict[tuple[int, float], list[int]] = {}
    for order, dose in doses:
        orders.setdefault((dose.subject, dose.time), []).append(order)
    before = np.zeros(sheet.rows, dtype=bool)
    for row in map(int, np.flatnonzero(scored)):
        same = orders.get((int(sheet.subject[row]), float(time[row])), ())
        before[row] = any(order > row for order in same)
        if before[row] and any(order < row for order in same):
            sheet.note(
                row, f"the observation stands between two doses at time {time[row]:g}; move it before or after both"
            )
    return before


def _channels(sheet: _Sheet, kind: Array, channels: Any) -> tuple[Array, tuple[str, ...]]:
    """Index of the channel of each row, and the names of the channels."""
    scored = np.flatnonzero(kind == OBSERVATION)
    column = "dvid" if sheet.has("dvid") else "cmt"
    labels = [_label(cell) for cell in sheet.cells(column)]
    present = list(dict.fromkeys(labels[row] for row in scored))
    given = _by_label(channels)
    if column == "cmt" and len(present) < 2 and len(given) < 2:
        return np.zeros(sheet.rows, dtype=int), tuple(given.values()) or ("dv",)
    present = sorted(filter(None, present), key=lambda label: float(label) if _numeric(label) else 0.0)
    known = given or {label: label for label in present}
    names = tuple(dict.fromkeys(known.values()))
    index = {name: i for i, name in enumerate(names)}
    channel = np.zeros(sheet.rows, dtype=int)
    for row in map(int, scored):
        name = known.get(labels[row], labels[row])
        if name in index:
            channel[row] = index[name]
        elif labels[row]:
            known_names = ", ".join(f"`{name}`" for name in names)
            sheet.note(
                row,
                f"`{column}` is {labels[row]}, an unknown channel{nearest(labels[row], names)}; "
                f"`channels` has {known_names}",
            )
        else:
            sheet.note(row, f"`{column}` is missing; say which channel was observed")
    return channel, names


def _covariates(sheet: _Sheet, covariates: Sequence[str]) -> tuple[Array, dict[str, tuple[str, ...]]]:
    """One value a subject and covariate; text becomes an index into its sorted categories."""
    values = np.zeros((len(sheet.names), len(covariates)))
    categories = {}
    for place, name in enumerate(covariates):
        labels = [_label(cell) for cell in sheet.cells(name)]
        present = sorted(set(filter(None, labels)))
        if present and not any(_numeric(label) for label in present):
            categories[name] = tuple(present)
            codes = {label: float(code) for code, label in enumerate(present)}
        else:
            codes = dict(zip(labels, sheet.numbers(name), strict=True))
        first: dict[int, int] = {}
        for row in (row for row, label in enumerate(labels) if label):
            subject = int(sheet.subject[row])
            start = first.setdefault(subject, row)
            if codes[labels[row]] != codes[labels[start]] and not np.isnan(codes[labels[row]]):
                sheet.note(
                    row,
                    f"covariate `{name}` changes from {labels[start]} (row {start + 1}) to {labels[row]}; covariates "
                    "that change in time are not supported yet, give one value a subject",
                )
        for subject, row in first.items():
            values[subject, place] = codes[labels[row]]
        for subject in sorted(set(range(len(sheet.names))) - set(first)):
            row = int(np.flatnonzero(sheet.subject == subject)[0])
            sheet.note(row, f"covariate `{name}` is missing; give a value or leave the subject out")
    return values, categories


def _notes(sheet: _Sheet, kind: Array, value: Array, excluded: Array, doses: int) -> tuple[str, ...]:
    scored = kind == OBSERVATION
    counts = {
        "dose rows": int((kind == DOSE).sum()),
        "observations": int((scored & (excluded != 1) & ~np.isnan(value)).sum()),
        "not scored (mdv 1)": int((scored & (excluded == 1)).sum()),
        "not scored (dv missing)": int((scored & (excluded != 1) & np.isnan(value)).sum()),
        "left out (evid 2)": int((kind == OTHER).sum()),
        "doses added by addl": doses - int((kind == DOSE).sum()),
    }
    shown = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    unused = [name for name in sheet.given if name not in sheet.used]
    notes = [f"{sheet.rows} rows read: {shown}"]
    return (*notes, *([f"columns not used: {', '.join(unused)}"] if unused else []))


def _by_label(names: Any) -> dict[str, str]:
    """`{"1": "gut"}` of `{1: "gut"}` or `("gut",)`; the names stand for themselves as well."""
    if names is None:
        return {}
    if isinstance(names, str):
        return {names: names}
    pairs: Iterable[tuple[Any, str]] = names.items() if isinstance(names, Mapping) else enumerate(names, start=1)
    return {_label(key): str(name) for key, name in pairs}


def _label(cell: Any) -> str:
    """A cell as a label: text as it is (`017` stays), whole numbers without a point, `""` when missing."""
    text = str(cell).strip()
    if text.lower() in _MISSING:
        return ""
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def _numeric(text: str) -> bool:
    try:
        return "_" not in text and np.isfinite(float(text))
    except ValueError:
        return False


def _number(cell: Any) -> float:
    """The number in a cell; NaN when missing, infinite where there is text."""
    text = str(cell).strip()
    if text.lower() in _MISSING:
        return np.nan
    return float(text) if _numeric(text) else np.inf


def _missing(cells: Array) -> Array:
    return np.array([str(cell).strip().lower() in _MISSING for cell in cells], dtype=bool)


def _shown(cell: Any) -> str:
    text = str(cell).strip()
    if text.lower() in _MISSING:
        return "missing"
    return text if _numeric(text) else repr(text)
