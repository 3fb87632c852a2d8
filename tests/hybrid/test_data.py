"""Cohorts: event tables of the field as they are written, every problem of a table at once, and the way back."""

from io import StringIO

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.data import Cohort, TableError
from tests.shared import shared_file


def text(csv: str) -> pd.DataFrame:
    return pd.read_csv(StringIO(csv.replace(" ", "")), dtype=str, keep_default_na=False)


def problems(table: object, **options: object) -> list[str]:
    with pytest.raises(TableError) as error:
        Cohort.from_table(table, **options)
    return list(error.value.problems)


PLAIN = """id,time,amt,dv
           a,0,100,.
           a,1,.,5.5
           a,2,.,4.5
           b,1,.,0.5
           b,2,50,.
           b,2,.,7.5
           b,3,0,"""


def test_a_plain_table_is_read_in_file_order() -> None:
    cohort = Cohort.from_table(text(PLAIN), doses_to="gut")
    assert cohort.ids == ("a", "b")
    assert cohort.times.nan_to_num(nan=-1).tolist() == [[1, 2, -1], [1, 2, 3]]
    assert cohort.dv.tolist() == [[5.5, 4.5, 0], [0.5, 7.5, 0]]
    assert cohort.observed.tolist() == [[True, True, False], [True, True, False]]
    assert cohort.start.tolist() == [0, 1]
    assert repr(cohort.schedule.select(0)) == "Schedule(100 bolus → gut at 0)"
    assert repr(cohort.schedule.select(1)) == "Schedule(50 bolus → gut at 2)"
    assert not cohort.before.any()


def test_the_order_of_the_file_decides_what_an_observation_sees() -> None:
    table = text(
        """id,time,evid,amt,dv
           1,0,0,,1
           1,0,1,9,
           1,0,0,,2
           1,5,0,,3
           1,5,1,9,"""
    )
    assert problems(table.iloc[[1, 2, 1]], doses_to="x") == [
        "row 2 (id 1): the observation stands between two doses at time 0; move it before or after both"
    ]
    assert Cohort.from_table(table, doses_to="x").before.tolist() == [[True, False, True]]


@pytest.mark.parametrize(
    ("column", "value", "duration"),
    [("rate", "50", 2.0), ("dur", "2", 2.0), ("rate", "0", 0.0), ("dur", "", 0.0)],
)
def test_infusions_by_rate_or_duration(column: str, value: str, duration: float) -> None:
    table = text(f"id,time,amt,{column},dv\n1,0,100,{value},\n1,1,,,5")
    assert Cohort.from_table(table, doses_to="x").schedule.duration.tolist() == [[duration]]
    both = text("id,time,amt,rate,dur,dv\n1,0,100,50,2,\n1,1,,,,5")
    assert Cohort.from_table(both, doses_to="x").schedule.duration.tolist() == [[2.0]]


def test_additional_doses_are_written_out_and_meet_the_times_of_the_file() -> None:
    table = text("id,time,amt,addl,ii,dv\n1,0,10,3,0.1,\n1,0.3,,,,5\n1,0.35,,,,5")
    cohort = Cohort.from_table(table, doses_to="x")
    # 3 × 0.1 is not 0.3 in floating point; the dose falls on the record, and comes first, as in NONMEM.
    assert cohort.schedule.time.tolist() == [[0.0, 0.1, 0.2, 0.3]]
    assert not cohort.before.any()
    assert "3 doses added by addl" in repr(cohort)


def test_compartments_by_number_name_and_older_code() -> None:
    def target(cmt: str, evid: str = "1", **options: object) -> list[str]:
        cohort = Cohort.from_table(text(f"id,time,amt,evid,cmt,dv\n1,0,10,{evid},{cmt},\n1,1,0,0,2,5"), **options)
        return [cohort.schedule.targets[i] for i in cohort.schedule.target[0].tolist()]

    assert target("1", compartments={1: "gut"}) == ["gut"]
    assert target("1.0", compartments=["gut", "central"]) == ["gut"]
    assert target("central") == ["central"]
    assert target("1", doses_to="gut") == ["gut"]
    assert target("", doses_to="gut") == ["gut"]
    assert target("9", evid="201", compartments=["gut", "central"]) == ["central"]
    assert target("1", evid="101", doses_to="gut") == ["gut"]


def test_channels_by_number_name_and_compartment() -> None:
    def read(dvid: str, **options: object) -> tuple[tuple[str, ...], list[int]]:
        values = dvid.split()
        rows = "\n".join(f"1,{i},5,{value}" for i, value in enumerate(values))
        cohort = Cohort.from_table(text(f"id,time,dv,dvid\n{rows}"), **options)
        return cohort.channels, cohort.channel[0].tolist()

    assert read("cp pca cp") == (("cp", "pca"), [0, 1, 0])
    assert read("2 1 10") == (("1", "2", "10"), [1, 0, 2])
    assert read("2 1", channels=["cp", "pca"]) == (("cp", "pca"), [1, 0])
    assert read("2 1", channels={1: "cp", 2: "pca"}) == (("cp", "pca"), [1, 0])
    assert read("pca pca", channels=["cp", "pca"]) == (("cp", "pca"), [1, 1])
    by_cmt = text("id,time,dv,cmt\n1,0,5,2\n1,1,6,3")
    assert Cohort.from_table(by_cmt, channels={2: "cp", 3: "pca"}).channel.tolist() == [[0, 1]]
    assert Cohort.from_table(text("id,time,dv\n1,0,5"), channels="cp").channels == ("cp",)


def test_mdv_and_evid_2_are_not_scored() -> None:
    table = text("id,time,evid,mdv,dv\n1,0,2,1,9\n1,1,0,1,8\n1,2,0,0,7")
    cohort = Cohort.from_table(table)
    assert cohort.times.tolist() == [[1, 2]]
    assert cohort.observed.tolist() == [[False, True]]
    assert cohort.start.tolist() == [0]
    assert "1 not scored (mdv 1)" in repr(cohort)
    assert "1 left out (evid 2)" in repr(cohort)


def test_covariates_are_numbers_or_categories() -> None:
    table = text("id,time,dv,WT,sex\n1,0,5,70,male\n1,1,5,70.0,male\n2,0,5,50,female\n2,1,5,,")
    cohort = Cohort.from_table(table, covariates=["wt", "sex"])
    assert cohort.covariates.tolist() == [[70, 1], [50, 0]]
    assert cohort.categories == {"sex": ("female", "male")}


def test_labels_keep_their_zeros() -> None:
    assert Cohort.from_table(text("id,time,dv\n017,0,1\n1.0,0,1")).ids == ("017", "1")


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("id,time,dv\n1,abc,5\n1,1,6", "row 1 (id 1): `time` is 'abc'; give a number"),
        ("id,time,dv\n1,inf,5\n1,1,6", "row 1 (id 1): `time` is 'inf'; give a number"),
        ("id,time,dv\n1,.,5\n1,1,6", "row 1 (id 1): `time` is missing; give the time"),
        ("id,time,dv\n,0,5\n1,1,6", "row 1: `id` is missing; name the subject"),
        ("id,time,dv\n1,2,5\n1,1,6", "row 2 (id 1): `time` 1 comes after 2 (row 1); sort"),
        ("id,time,amt,dv\n1,0,-5,\n1,1,,6", "row 1 (id 1): `amt` is -5; a dose cannot be negative"),
        ("id,time,amt,evid,dv\n1,0,,1,\n1,1,,0,6", "row 1 (id 1): `amt` is missing; give the amount"),
        ("id,time,amt,evid,dv\n1,0,3,0,4\n1,1,,0,6", "row 1 (id 1): `amt` is 3; an observation (evid 0)"),
        ("id,time,amt,evid,dv\n1,0,3,,4\n1,1,,0,6", "row 1 (id 1): `evid` is missing; give 0"),
        ("id,time,amt,evid,dv\n1,0,3,3,4\n1,1,,0,6", "row 1 (id 1): `evid` is 3; resets are not supported"),
        ("id,time,amt,evid,dv\n1,0,3,4,4\n1,1,,0,6", "row 1 (id 1): `evid` is 4; resets are not supported"),
        ("id,time,amt,evid,dv\n1,0,3,7,4\n1,1,,0,6", "row 1 (id 1): `evid` is 7; known are 0"),
        ("id,time,amt,evid,dv\n1,0,3,10101,4\n1,1,,0,6", "row 1 (id 1): `evid` is 10101; infusions as start and stop"),
        ("id,time,amt,evid,dv\n1,0,3,110,4\n1,1,,0,6", "row 1 (id 1): `evid` is 110; known are 0"),
        ("id,time,amt,rate,dv\n1,0,3,-2,\n1,1,,,6", "row 1 (id 1): `rate` is -2; modelled rates"),
        ("id,time,amt,rate,dv\n1,0,3,-5,\n1,1,,,6", "row 1 (id 1): `rate` is -5; give 0 for a bolus"),
        ("id,time,amt,dur,dv\n1,0,3,-5,\n1,1,,,6", "row 1 (id 1): `dur` is -5; give 0 for a bolus"),
        ("id,time,amt,rate,dur,dv\n1,0,3,2,2,\n1,1,,,,6", "with `dur` 2 and `amt` 3 it does not fit: amt = rate × dur"),
        ("id,time,amt,rate,evid,dv\n1,0,0,2,1,\n1,1,,,0,6", "row 1 (id 1): `rate` is 2; an infusion needs its amount"),
        ("id,time,amt,addl,ii,dv\n1,0,3,1.5,1,\n1,1,,,,6", "row 1 (id 1): `addl` is 1.5; give a whole number"),
        ("id,time,amt,addl,ii,dv\n1,0,3,1e9,1,\n1,1,,,,6", "row 1 (id 1): `addl` is 1e9; give a whole number"),
        ("id,time,amt,addl,ii,dv\n1,0,3,2,0,\n1,1,,,,6", "row 1 (id 1): `ii` is 0; additional doses need"),
        ("id,time,amt,ss,dv\n1,0,3,1,\n1,1,,,6", "row 1 (id 1): `ss` is 1; steady-state doses are not supported"),
        ("id,time,cens,dv\n1,0,1,4\n1,1,0,6", "row 1 (id 1): `cens` is 1; censored observations are not supported"),
        ("id,time,mdv,dv\n1,0,3,4\n1,1,0,6", "row 1 (id 1): `mdv` is 3; give 1"),
        ("id,time,dv\n1,0,.\n1,1,", "no row holds an observation"),
        ("id,time,dv,dvid\n1,0,3,\n1,1,6,cp", "row 1 (id 1): `dvid` is missing"),
    ],
)
def test_each_problem_is_named_with_row_value_and_remedy(table: str, expected: str) -> None:
    found = problems(text(table), doses_to="gut")
    assert len(found) == 1
    assert expected in found[0]


@pytest.mark.parametrize(
    ("table", "options", "expected"),
    [
        ("id,time,amt,dv\n1,0,3,\n1,1,,6", {}, "no compartment; give `doses_to`"),
        ("id,time,amt,cmt,dv\n1,0,3,4,\n1,1,,2,6", {"compartments": ["gut"]}, "`cmt` is 4, an unknown compartment"),
        ("id,time,amt,cmt,dv\n1,0,3,gutt,\n1,1,,,6", {"compartments": ["gut"]}, "(did you mean `gut`?)"),
        ("id,time,amt,cmt,dv\n1,0,3,4,\n1,1,,2,6", {}, "`cmt` is 4, an unknown compartment"),
        ("id,time,dv,dvid\n1,0,3,cp\n1,1,6,pcb", {"channels": ["cp", "pca"]}, "`dvid` is pcb, an unknown channel"),
        ("id,time,dv,wt\n1,0,3,70\n1,1,6,71", {"covariates": ["wt"]}, "row 2 (id 1): covariate `wt` changes from 70"),
        ("id,time,dv,wt\n1,0,3,.\n1,1,6,.", {"covariates": ["wt"]}, "row 1 (id 1): covariate `wt` is missing"),
        (
            "id,time,dv,wt\n1,0,3,70\n2,1,6,heavy",
            {"covariates": ["wt"]},
            "row 2 (id 2): `wt` is 'heavy'; give a number",
        ),
        ("id,time,dv\n1,0,3", {"covariates": ["wt"]}, "the column `wt` is missing"),
        ("id,tme,dv\n1,0,3", {}, "the column `time` is missing (did you mean `tme`?)"),
        ("id,ID,time,dv\n1,1,0,3", {}, None),
        ("id,Id,time,dv,DV\n1,1,0,3,4", {}, None),
        ("id,time,dv\n1,0,3", {"columns": {"dvv": "dv"}}, "`dvv`, which is not a standard column (did you mean `dv`"),
        ("id,time,dv\n1,0,3", {"columns": {"dv": "conc"}}, "the column `conc` is missing"),
        ("id,time,dv", {}, "no rows"),
    ],
)
def test_what_the_options_do_not_cover_is_refused(table: str, options: dict, expected: str | None) -> None:
    if expected is None:
        # An exact name wins over one that differs in case only.
        assert Cohort.from_table(text(table), **options).dv.tolist() == [[3.0]]
    else:
        found = problems(text(table), **options)
        assert len(found) == 1
        assert expected in found[0]


def test_names_that_differ_in_case_only_are_ambiguous() -> None:
    assert "ambiguous" in problems(text("Id,ID,time,dv\n1,1,0,3"))[0]


def test_all_problems_come_in_one_error_in_the_order_of_the_rows() -> None:
    table = text(
        """id,time,amt,cmt,rate,dv,dvid,wt
           1,0,-5,9,,,cp,70
           1,2,,,,x,cp,70
           1,1,,,,5,pcb,71"""
    )
    found = problems(table, compartments=["gut"], channels=["cp", "pca"], covariates=["wt"])
    assert [int(problem.split()[1]) for problem in found] == [1, 1, 2, 3, 3, 3]


def test_a_long_list_is_shortened_with_a_count() -> None:
    found = problems({"id": [1] * 80, "time": ["x"] * 80, "dv": [1.0] * 80})
    assert len(found) == 51
    assert found[-1] == "… and 30 more problems"


def test_something_that_is_no_table_is_refused() -> None:
    with pytest.raises(TypeError, match="DataFrame"):
        Cohort.from_table(3)  # type: ignore[arg-type]


def same(one: Cohort, other: Cohort) -> None:
    assert one.ids == other.ids
    assert one.channels == other.channels
    assert one.categories == other.categories
    for name in ("times", "dv", "observed", "channel", "before", "covariates", "start"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0, equal_nan=True)
    assert [repr(one.schedule.select(i)) for i in range(len(one))] == [
        repr(other.schedule.select(i)) for i in range(len(other))
    ]


RECORDS = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.sampled_from(["dose", "infusion", "cp", "pca", "missing"]),
        st.floats(0.001, 1e6, width=64),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(RECORDS, min_size=1, max_size=3))
def test_a_cohort_survives_the_way_to_a_table_and_back(subjects: list) -> None:
    rows = []
    for i, records in enumerate(subjects):
        facts = {"id": f"s{i}", "wt": 50.0 + i, "sex": "mf"[i % 2]}
        seen: set[int] = set()
        rows.append(facts | {"time": 0, "evid": 0, "dv": 1.0, "dvid": "cp"})
        for time, kind, value in sorted(records, key=lambda record: record[0]):
            if kind in ("dose", "infusion"):
                # One dose a time: an observation between two has no place in a cohort.
                if time not in seen:
                    rows.append(facts | {"time": time, "evid": 1, "amt": value, "dur": 0.1 * (kind == "infusion")})
                seen.add(time)
            else:
                dv = None if kind == "missing" else value
                rows.append(facts | {"time": time, "evid": 0, "dv": dv, "dvid": "cp" if kind == "missing" else kind})
    options = {"doses_to": "gut", "covariates": ["wt", "sex"], "channels": ["cp", "pca"]}
    cohort = Cohort.from_table(
        pd.DataFrame(rows, columns=["id", "time", "evid", "amt", "dur", "dv", "dvid", "wt", "sex"]), **options
    )
    same(cohort, Cohort.from_table(cohort.to_table(), **options))


def test_selection_and_split_keep_whole_subjects() -> None:
    cohort = Cohort.from_table(text(PLAIN), doses_to="gut")
    assert cohort.select("b").dv.tolist() == [[0.5, 7.5, 0]]
    assert cohort.select("a").times.shape == (1, 2)
    assert cohort.select([1, 0]).ids == ("b", "a")
    assert cohort.select(torch.tensor([False, True])).ids == ("b",)
    assert cohort.select(-1).ids == ("b",)
    assert cohort.select(slice(1)).ids == ("a",)
    assert repr(cohort.select("b").schedule.select(0)) == "Schedule(50 bolus → gut at 2)"
    with pytest.raises(KeyError, match="no subject `c`"):
        cohort.select(["a", "c"])
    with pytest.raises(IndexError):
        cohort.select(2)
    train, held_out = cohort.split(0.5, seed=3)
    assert sorted(train.ids + held_out.ids) == ["a", "b"]
    with pytest.raises(ValueError, match="leaves one side empty"):
        cohort.split(0.0)


def test_a_split_is_reproducible_and_disjoint() -> None:
    cohort = Cohort.from_table({"id": np.arange(40), "time": [0.0] * 40, "dv": np.arange(40.0)})
    train, held_out = cohort.split(0.75, seed=1)
    assert (len(train), len(held_out)) == (30, 10)
    assert set(train.ids).isdisjoint(held_out.ids)
    assert cohort.split(0.75, seed=1)[0].ids == train.ids
    assert cohort.split(0.75, seed=2)[0].ids != train.ids


def test_a_cohort_as_labelled_arrays() -> None:
    data = Cohort.from_table(text(PLAIN), doses_to="gut").dataset()
    assert dict(data.sizes) == {"subject": 2, "sample": 3, "dose": 1, "covariate": 0}
    assert np.isnan(data.dv.sel(subject="a").values[2])
    assert data.dose_amount.sel(subject="b").item() == 50.0


def test_the_summary_escapes_foreign_text() -> None:
    table = {"id": ["<b>"], "time": [0.0], "dv": [1.0], "<i>": [1]}
    assert "<i>" not in Cohort.from_table(table)._repr_html_()


def test_warfarin() -> None:
    cohort = Cohort.from_table(shared_file("real_data/warfarin.csv"), doses_to="gut", covariates=["wt", "age", "sex"])
    assert len(cohort) == 32
    # 251 concentrations and 232 effects in 515 rows of which 32 are doses: counted in the file.
    assert [int((cohort.channel[cohort.observed] == i).sum()) for i in (0, 1)] == [251, 232]
    assert cohort.channels == ("cp", "pca")
    assert cohort.categories["sex"] == ("female", "male")
    assert cohort.schedule.amount[0].tolist() == [100.0]
    again = Cohort.from_table(cohort.to_table(), covariates=["wt", "age", "sex"])
    same(cohort, again)


def test_theophylline_reads_the_older_dose_code_and_follows_the_file() -> None:
    cohort = Cohort.from_table(shared_file("real_data/theo_sd.csv"), doses_to="gut", covariates=["WT"])
    assert cohort.observed.sum() == 132
    assert (float(cohort.times[0, 0]), float(cohort.dv[0, 0])) == (0.0, 0.74)
    # The file writes the dose first, so the residual concentration counts as after it.
    assert not cohort.before.any()
    multiple = Cohort.from_table(shared_file("real_data/theo_md.csv"), compartments={1: "gut"})
    assert multiple.schedule.time.isfinite().sum(dim=1).tolist() == [7] * 12


def test_tables_with_what_is_not_supported_are_refused_with_every_row() -> None:
    found = problems(shared_file("real_data/wbcSim.csv"))
    assert "and 54 more" in found[-1]
    assert all("start and stop records" in problem for problem in found[:-1])
    resets = problems(shared_file("real_data/nmtest.csv"), columns={"dv": "cp"}, compartments=["gut", "central"])
    assert any("resets are not supported" in problem for problem in resets)
