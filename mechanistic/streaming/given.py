"""What a streamed simulation is given, cut into rows of subjects, and digests that tell one request from another."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from torch import Tensor

from mechanistic.field import AbstractVectorField
from mechanistic.schedule import Schedule

INNER: Final = {"times": 1, "parameters": 1, "schedule": 1, "initial": 1, "start": 0, "before": 1}
"""Axes of each argument behind the axis of the subjects."""

FIXED: Final = ("times", "start", "before")
"""Arguments that may not be functions."""

DOSES: Final = ("target", "time", "amount", "duration")


@final
@dataclass(frozen=True, eq=False)
class Given:
    """The arguments of `mechanistic.simulate` that may differ between subjects.

    `parameters`, `schedule` and `initial` may be functions that take a slice of rows and give those rows. Arrays need
    only a shape and slices, so that they may lie in a file.
    """

    times: Any
    parameters: Any
    schedule: Any
    initial: Any
    start: Any
    before: Any

    @classmethod
    def of(cls, **arguments: Any) -> "Given":
        """The arguments, with lists and numbers made arrays."""
        return cls(**{name: _settled(value) for name, value in arguments.items()})

    def rows(self, rows: slice) -> dict[str, Any]:
        """The arguments of some subjects."""
        return {name: _rows(getattr(self, name), inner, rows) for name, inner in INNER.items()}

    def count(self, count: int | None, problems: list[str]) -> int:
        """How many subjects there are; 1 where that is a problem."""
        problems += [f"`{name}` may not be a function" for name in FIXED if callable(getattr(self, name))]
        sizes: dict[str, int] = {}
        for name, inner in INNER.items():
            for part, shape in _shapes(name, getattr(self, name), inner):
                if len(shape) > 1:
                    problems.append(f"`{part}` has the batch {tuple(shape)}; give one row a subject")
                elif shape:
                    sizes[part] = shape[0]
        if count is not None:
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                problems.append(f"`count` is {count!r}; give a whole number of subjects, 1 or more")
                return 1
            sizes["count"] = count
        known = set(sizes.values()) - {1}
        if len(known) > 1:
            problems.append("rows do not fit each other: " + ", ".join(f"`{k}` {v}" for k, v in sizes.items()))
        elif not sizes:
            problems.append("nothing says how many subjects there are; give `count`")
        elif 0 in known:
            problems.append("there are no subjects")
        return max([1, *known])

    def shared_times(self, cuts: list[slice]) -> bool:
        """Whether all subjects have the same output times."""
        times = self.times
        if len(times.shape) < 2 or times.shape[0] == 1:
            return bool(np.array_equal(times, times))
        first = np.asarray(times[:1])
        return all(bool((np.asarray(times[rows]) == first).all()) for rows in cuts)

    def digests(self, cuts: list[slice], problems: list[str]) -> dict[str, str]:
        """A digest of every argument; of a function, of its first and last rows.

        A function that gives other values when it is asked again is a problem.
        """
        found = {}
        for name, inner in INNER.items():
            value = getattr(self, name)
            if not callable(value):
                found[name] = _digest(_content(name, value, inner, cuts))
                continue
            first, again, last = (
                _digest(_content(name, value(rows), inner, [slice(None)])) for rows in (cuts[0], cuts[0], cuts[-1])
            )
            found[name] = f"{first} {last}"
            if first != again:
                problems.append(
                    f"`{name}` gave other values for the same rows when it was asked again; make it a function of its"
                    " rows alone, for instance by seeding a generator with `rows.start`"
                )
        return found


def digest_of_field(field: AbstractVectorField) -> str:
    """A digest of a system: its model, its names, its structure and its weights."""
    model = getattr(field, "model", None)
    names = (field.state_names, field.parameter_names, field.observable_names)
    text = f"{type(field).__qualname__} {getattr(model, 'digest', '')} {names} {field!r}"
    weights = {name: value for name, value in field.state_dict().items() if isinstance(value, Tensor)}
    parts = {**weights, "nominal": field.nominal()}
    return _digest([text.encode(), *_content("field", parts, 0, [slice(None)])])


def digest_of_text(text: str) -> str:
    """A digest of a text."""
    return _digest([text.encode()])


def _settled(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _settled(part) for name, part in value.items()}
    if isinstance(value, Tensor):
        return value.detach()
    return value if value is None or callable(value) or hasattr(value, "shape") else _array(value)


def _array(value: Any) -> Any:
    return value if isinstance(value, Schedule) else np.asarray(value)


def _shapes(name: str, value: Any, inner: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The batch of an argument, or of each of its parts."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _shapes(f"{name}[{key!r}]", part, 0)
    elif isinstance(value, Schedule):
        yield name, tuple(value.batch_shape)
    elif value is not None and not callable(value):
        yield name, tuple(value.shape[: max(0, len(value.shape) - inner)])


def _rows(value: Any, inner: int, rows: slice) -> Any:
    """The rows of an argument; all of it where it is the same for every subject."""
    if value is None:
        return None
    if callable(value):
        return value(rows)
    if isinstance(value, Mapping):
        return {name: _rows(part, 0, rows) for name, part in value.items()}
    batch = value.batch_shape if isinstance(value, Schedule) else value.shape[: max(0, len(value.shape) - inner)]
    if not batch or batch[0] == 1:
        return value
    return value.select(rows) if isinstance(value, Schedule) else value[rows]


def _content(name: str, value: Any, inner: int, cuts: list[slice]) -> Iterator[bytes]:
    """The content of an argument, which does not depend on where it is cut."""
    if value is None:
        yield f"{name} none ".encode()
    elif isinstance(value, Mapping):
        for key in sorted(value):
            yield from _content(f"{name}[{key!r}]", value[key], 0, cuts)
    elif isinstance(value, Schedule):
        yield f"{name} {value.targets} ".encode()
        for part in DOSES:
            yield from _content(part, getattr(value, part), 1, cuts)
    else:
        shape = np.shape(value)
        yield f"{name} {tuple(shape)} ".encode()
        for rows in cuts if len(shape) > inner and shape[0] != 1 else [...]:
            yield _numbers(value[rows]).tobytes()


def _numbers(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    return np.ascontiguousarray(value, dtype=np.float64)


def _digest(parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
