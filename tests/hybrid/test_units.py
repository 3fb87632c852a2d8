"""A table in other units is the same cohort, or it is refused."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.data import Cohort, TableError
from mechanistic import library
from mechanistic.units import parse_unit

MODEL = library.warfarin_pkpd()  # h, mg, cp in mg/L, PCA in %
TABLE = pd.DataFrame(
    {
        "id": ["a", "a", "a", "a", "b", "b"],
        "time": [0.0, 12.0, 24.0, 36.0, 6.0, 30.0],
        "amt": [100.0, None, 50.0, None, 80.0, None],
        "dur": [0.0, None, 3.0, None, 1.5, None],
        "cmt": ["gut", None, "central", None, "gut", None],
        "dv": [None, 8.0, None, 60.0, None, 5.0],
        "dvid": [None, "cp", None, "PCA", None, "cp"],
    }
)


def read(table: pd.DataFrame, **options: object) -> Cohort:
    return Cohort.from_table(table, channels=["cp", "PCA"], **options)


def problems(**options: object) -> list[str]:
    with pytest.raises(TableError) as caught:
        read(TABLE, **options)
    return list(caught.value.problems)


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from(("s", "min", "h", "day", "week")),
    st.sampled_from(("ng", "ug", "g", "kg")),
    st.sampled_from(("ng/mL", "ug/mL", "mg/dL", "g/L")),
)
def test_a_table_in_other_units_is_the_same_cohort(per: str, mass: str, level: str) -> None:
    time = parse_unit("h").per(parse_unit(per))
    amount = parse_unit("mg").per(parse_unit(mass))
    value = parse_unit("mg/L").per(parse_unit(level))
    written = TABLE.assign(
        time=TABLE["time"] * time,
        dur=TABLE["dur"] * time,
        amt=TABLE["amt"] * amount,
        dv=TABLE["dv"].where(TABLE["dvid"] == "PCA", TABLE["dv"] * value),
    )
    there = read(written, units={"time": per, "amt": mass, "dv": {"cp": level}}, model=MODEL)
    plain = read(TABLE)
    # Two roundings a number: one where the table was written, one where it was read.
    close = {"rtol": 4e-16, "atol": 0.0, "equal_nan": True}
    for name in ("times", "dv", "start"):
        torch.testing.assert_close(getattr(there, name), getattr(plain, name), **close)
    for name in ("time", "amount", "duration"):
        torch.testing.assert_close(getattr(there.schedule, name), getattr(plain.schedule, name), **close)
    assert torch.equal(there.before, plain.before)
    assert torch.equal(there.observed, plain.observed)


def test_what_was_multiplied_is_noted_and_what_was_not_is_not() -> None:
    cohort = read(TABLE, units={"time": "day", "amt": {"gut": "g"}, "dv": {"cp": "ug/mL", "PCA": "%"}}, model=MODEL)
    assert cohort.notes[-2:] == ("time converted from day to h (× 24)", "amt of `gut` converted from g to mg (× 1000)")
    assert len(cohort.notes) == 1 + len(read(TABLE).notes) + 1
    assert cohort.schedule.select(0).amount.tolist() == [100_000.0, 50.0]


def test_without_units_nothing_is_converted() -> None:
    assert torch.equal(read(TABLE, model=MODEL).dv, read(TABLE).dv)


def test_units_need_a_model() -> None:
    assert problems(units={"time": "day"}) == ["give `model`, to whose units they are converted"]


def test_all_problems_are_listed() -> None:
    units = {"tme": "h", "time": "mg", "amt": {"gutt": "mg", "gut": "nmol"}, "dv": {"cp": "mg//L", "PCA": "mg"}}
    found = problems(units=units, model=MODEL)
    expected = (
        "`tme` has no unit here (did you mean `time`?)",
        "`time`: `mg` cannot be converted to `h`",
        "`gutt` is not dosed into (did you mean `gut`?)",
        "a mass and the other an amount of substance",
        "'mg//L' cannot be read",
        "`mg` cannot be converted to `%`",
    )
    assert len(found) == len(expected)
    assert all(any(text in problem for problem in found) for text in expected)


def test_an_observable_whose_unit_does_not_follow_is_refused() -> None:
    nameless = replace(MODEL, parameters=tuple(replace(p, unit="") if p.name == "V" else p for p in MODEL.parameters))
    assert "quantities without a unit: `V`" in problems(units={"dv": {"cp": "ug/mL"}}, model=nameless)[0]
    scaled = replace(MODEL, observables={**MODEL.observables, "cp": 1000 * MODEL.observables["cp"]})
    assert "may convert units" in problems(units={"dv": {"cp": "ug/L"}}, model=scaled)[0]


def test_a_channel_that_the_model_does_not_have_is_refused() -> None:
    table = TABLE.assign(dvid=TABLE["dvid"].replace("cp", "serum"))
    with pytest.raises(TableError, match="no quantity `serum`"):
        Cohort.from_table(table, channels=["serum", "PCA"], units={"dv": {"serum": "mg/L"}}, model=MODEL)
