"""What was observed: the records, doses and covariates of a group of subjects as padded tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from os import PathLike
from typing import TYPE_CHECKING, Any, final

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hybrid.table import Events, TableError, read_events
from hybrid.units import TableUnits, in_units_of
from mechanistic.errors import nearest
from mechanistic.model import FrozenMap, KineticModel
from mechanistic.schedule import Schedule

if TYPE_CHECKING:
    import xarray

__all__ = ["Cohort", "TableError"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class Cohort:
    """Subjects with their records, doses and covariates; one row a subject, ragged rows padded at their end.

    Attributes:
        ids: a label a subject.
        times: time of each record in the unit of the model, non-decreasing, `(subject, sample)`; NaN for padding.
        dv: what was observed, `(subject, sample)`; 0 where nothing was, so that no NaN reaches a gradient.
        observed: whether `dv` counts, `(subject, sample)`; false for padding, missing values and `mdv` 1.
        channel: index into `channels`, `(subject, sample)`.
        before: whether the record stood before a dose at the same time, `(subject, sample)`: compare it with the value
            before the dose.
        schedule: the doses, one row a subject.
        covariates: `(subject, covariate)`; a category as an index into `categories`.
        start: first time of each subject, `(subject,)`.
        channels: names of what was observed.
        covariate_names: names of the covariates.
        categories: covariate name to the names of its categories, for covariates given as text.
        notes: what was read and what was left out, for people.
    """

    ids: tuple[str, ...]
    times: Tensor
    dv: Tensor
    observed: Tensor
    channel: Tensor
    before: Tensor
    schedule: Schedule
    covariates: Tensor
    start: Tensor
    channels: tuple[str, ...] = ("dv",)
    covariate_names: tuple[str, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = FrozenMap()
    notes: tuple[str, ...] = ()

    @classmethod
    def from_table(
        cls,
        table: pd.DataFrame | Mapping[str, Any] | str | PathLike[str],
        *,
        doses_to: str | None = None,
        compartments: Mapping[Any, str] | Sequence[str] | None = None,
        channels: Mapping[Any, str] | Sequence[str] | str | None = None,
        covariates: Sequence[str] = (),
        columns: Mapping[str, str] | None = None,
        units: TableUnits | None = None,
        model: KineticModel | None = None,
    ) -> "Cohort":
        """Reads an event table in NONMEM's style: a data frame, a mapping of columns, or a CSV file.

        Columns, in any case: `id`, `time`, `dv`; `amt` with `rate` or `dur` for doses; `cmt` (number or state name),
        `evid` (0 observation, 1 dose, 2 neither; 101, 201, … of older RxODE tables: a dose into compartment 1, 2, …),
        `mdv`, `dvid` (number or name), `addl` with `ii`. An empty cell, `.` or `NA` is missing. Without `evid` a row
        with an amount is a dose. Without `dvid`, observations in several compartments are channels by `cmt`. At equal
        times the order of the file decides whether an observation sees a dose.

        Args:
            table: what to read.
            doses_to: the state for doses whose row names no compartment.
            compartments: compartment number to state name, or the names of compartments 1, 2, …
            channels: `dvid` to channel name, or the names of `dvid` 1, 2, …; one name for a single channel.
            covariates: columns that hold one value a subject; text becomes categories.
            columns: standard name to the name in this table, for instance `{"dv": "conc"}`.
            units: the units of the table where they are not those of the model, for instance
                `{"time": "day", "amt": "mg", "dv": {"cp": "ug/mL"}}`: `amt` by state and `dv` by channel, or one for
                all.
            model: to whose units the numbers are converted; needed with `units` only.

        Raises:
            TableError: lists every problem of the table with its row, value and remedy, or every unit that is missing,
                cannot be read or does not fit.
        """
        events = read_events(
            table,
            doses_to=doses_to,
            compartments=compartments,
            channels=channels,
            covariates=tuple(covariates),
            columns=columns or {},
        )
        return cls._of(in_units_of(model, events, units) if units else events, tuple(covariates))

    @classmethod
    def _of(cls, events: Events, covariates: tuple[str, ...]) -> "Cohort":
        size = len(events.ids)
        order = np.argsort(events.subject, kind="stable")
        subject = events.subject[order]
        counts = np.bincount(subject, minlength=size)
        sample = np.arange(len(subject)) - np.repeat(np.cumsum(counts) - counts, counts)

        def padded(values: np.ndarray, fill: float) -> Tensor:
            grid = np.full((size, int(counts.max())), fill, dtype=values.dtype)
            grid[subject, sample] = values[order]
            return torch.from_numpy(grid)

        return cls(
            ids=events.ids,
            times=padded(events.time, np.nan),
            dv=padded(np.where(events.observed, events.value, 0.0), 0.0),
            observed=padded(events.observed, False),
            channel=padded(events.channel, 0),
            before=padded(events.before, False),
            schedule=_schedule(events),
            covariates=torch.from_numpy(events.covariates),
            start=torch.from_numpy(events.start),
            channels=events.channels,
            covariate_names=covariates,
            categories=FrozenMap(events.categories),
            notes=events.notes,
        )

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, subjects: Any) -> "Cohort":
        """Some of the subjects, in the order asked for.

        Args:
            subjects: an id or a list of ids as text; otherwise rows: an index, a list of indices, a slice or a mask.

        Raises:
            KeyError: for ids that the cohort does not have.
        """
        rows = self._rows(subjects)
        index = torch.as_tensor(rows)
        width = int((~self.times[index].isnan()).sum(dim=1).max()) if len(rows) else 0
        samples = {name: getattr(self, name)[index][:, :width] for name in _SAMPLED}
        return replace(
            self,
            ids=tuple(self.ids[row] for row in rows),
            schedule=self.schedule.select(index),
            covariates=self.covariates[index],
            start=self.start[index],
            notes=(*self.notes, f"{len(rows)} of {len(self)} subjects selected"),
            **samples,
        )

    def _rows(self, subjects: Any) -> list[int]:
        chosen = [subjects] if isinstance(subjects, str | int) else subjects
        if isinstance(chosen, slice):
            return list(range(len(self)))[chosen]
        if isinstance(chosen, Tensor | np.ndarray):
            chosen = np.asarray(chosen)
            chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        unknown = [one for one in chosen if isinstance(one, str) and one not in self.ids]
        if unknown:
            named = "; ".join(f"`{one}`{nearest(one, self.ids)}" for one in unknown)
            raise KeyError(f"the cohort has no subject {named}")
        return [self.ids.index(one) if isinstance(one, str) else range(len(self))[int(one)] for one in chosen]

    def split(self, fraction: float, seed: int = 0) -> tuple["Cohort", "Cohort"]:
        """Two cohorts: `fraction` of the subjects, chosen at random, to train on, and the others to hold out.

        Raises:
            ValueError: when one of the two would be empty.
        """
        size = round(fraction * len(self))
        if not 0 < size < len(self):
            raise ValueError(
                f"{fraction=} of {len(self)} subjects leaves one side empty; give a number between 0 and 1"
            )
        order = np.random.default_rng(seed).permutation(len(self))
        return self.select(np.sort(order[:size])), self.select(np.sort(order[size:]))

    def to_table(self) -> pd.DataFrame:
        """The cohort as an event table that `from_table` reads back, in the order in which things happen."""
        rows = [row for subject in range(len(self)) for row in self._subject_rows(subject)]
        return pd.DataFrame(
            rows, columns=["id", "time", "evid", "amt", "dur", "cmt", "mdv", "dv", "dvid", *self.covariate_names]
        )

    def _subject_rows(self, subject: int) -> list[dict[str, Any]]:
        facts = {"id": self.ids[subject]} | self._covariate_cells(subject)
        doses, schedule = [], self.schedule.select(subject)
        for to, when, much, long in zip(
            *(getattr(schedule, n).detach().tolist() for n in ("target", "time", "amount", "duration")), strict=True
        ):
            if when < float("inf"):
                dose = {"evid": 1, "amt": much, "dur": long, "cmt": schedule.targets[to], "mdv": 1}
                doses.append((when, 1, facts | {"time": when} | dose))
        records = []
        sampled = (getattr(self, name)[subject].tolist() for name in ("times", "dv", "observed", "channel", "before"))
        for when, value, seen, channel, before in zip(*sampled, strict=True):
            if when == when:
                record = {"evid": 0, "mdv": int(not seen), "dvid": self.channels[channel]} | (
                    {"dv": value} if seen else {}
                )
                records.append((when, 0 if before else 2, facts | {"time": when} | record))
        begin = float(self.start[subject])
        rows = sorted([*doses, *records], key=lambda row: row[:2])
        silent = [] if rows and rows[0][0] == begin else [facts | {"time": begin, "evid": 2, "mdv": 1}]
        return [*silent, *(row for *_, row in rows)]

    def _covariate_cells(self, subject: int) -> dict[str, Any]:
        values = self.covariates[subject].tolist()
        return {
            name: self.categories[name][int(value)] if name in self.categories else value
            for name, value in zip(self.covariate_names, values, strict=True)
        }

    def dataset(self) -> "xarray.Dataset":
        """The cohort as labelled arrays with the dimensions `subject`, `sample`, `dose` and `covariate`."""
        import xarray

        doses = self.schedule
        real = (~self.times.isnan()).numpy()
        names = np.array(self.channels, dtype=object)[self.channel.numpy()]
        targets = np.array([*doses.targets, ""], dtype=object)
        into = np.where(doses.time.detach().isfinite().numpy(), doses.target.numpy(), len(doses.targets))
        when = doses.time.detach()
        return xarray.Dataset(
            {
                "time": (("subject", "sample"), self.times.numpy()),
                "dv": (("subject", "sample"), torch.where(self.observed, self.dv, torch.nan).numpy()),
                "observed": (("subject", "sample"), self.observed.numpy()),
                "channel": (("subject", "sample"), np.where(real, names, "")),
                "before": (("subject", "sample"), self.before.numpy()),
                "dose_time": (("subject", "dose"), torch.where(when.isfinite(), when, torch.nan).numpy()),
                "dose_amount": (("subject", "dose"), doses.amount.detach().numpy()),
                "dose_duration": (("subject", "dose"), doses.duration.detach().numpy()),
                "dose_target": (("subject", "dose"), targets[into]),
                "covariates": (("subject", "covariate"), self.covariates.numpy()),
                "start": (("subject",), self.start.numpy()),
            },
            coords={"subject": list(self.ids), "covariate": list(self.covariate_names)},
        )

    def _summary(self) -> list[tuple[str, str]]:
        seen = self.channel[self.observed]
        per_channel = [(int((seen == i).sum()), name) for i, name in enumerate(self.channels)]
        detail = f" ({', '.join(f'{name} {count}' for count, name in per_channel)})" if len(self.channels) > 1 else ""
        given = self.schedule.time.isfinite()
        targets = sorted({self.schedule.targets[i] for i in self.schedule.target[given].unique().tolist()})
        real = self.times[~self.times.isnan()]
        lines = [
            ("subjects", str(len(self))),
            ("observations", f"{int(self.observed.sum())}{detail}"),
            ("doses", f"{int(given.sum())}{' → ' + ', '.join(targets) if targets else ''}"),
            ("time", f"{float(self.start.min()):g} to {float(real.max()):g}" if len(real) and len(self) else "none"),
        ]
        if self.covariate_names:
            lines.append(("covariates", ", ".join(map(self._covariate_text, self.covariate_names))))
        return [*lines, *(("note", note) for note in self.notes)]

    def _covariate_text(self, name: str) -> str:
        values = self.covariates[:, self.covariate_names.index(name)]
        if name in self.categories:
            counts = [
                f"{category} {int((values == code).sum())}" for code, category in enumerate(self.categories[name])
            ]
            return f"{name} ({', '.join(counts)})"
        return f"{name} {float(values.min()):g} to {float(values.max()):g}" if len(values) else name

    def __repr__(self) -> str:
        return "\n  ".join(["Cohort", *(f"{what}: {text}" for what, text in self._summary())])

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{escape(what)}</th><td>{escape(text)}</td></tr>" for what, text in self._summary())
        return f"<table><caption>Cohort</caption>{rows}</table>"


_SAMPLED = ("times", "dv", "observed", "channel", "before")


def _schedule(events: Events) -> Schedule:
    """The doses as one padded schedule, in the order of the file for each subject."""
    targets = tuple(dict.fromkeys(dose.state for dose in events.doses))
    per_subject: list[list[Any]] = [[] for _ in events.ids]
    for dose in events.doses:
        per_subject[dose.subject].append((targets.index(dose.state), dose.time, dose.amount, dose.duration))
    width = max(map(len, per_subject))
    rows = [row + [(0, float("inf"), 0.0, 0.0)] * (width - len(row)) for row in per_subject]
    grid = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), width, 4)
    target, time, amount, duration = grid.unbind(dim=-1)
    return Schedule(targets, target.long(), time, amount, duration)
