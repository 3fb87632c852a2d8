"""Units obey the algebra of dimensions, and a model says where its own do not."""

import contextlib
from dataclasses import replace
from fractions import Fraction
from functools import cache

import pint
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Abs, Max, Mod, Piecewise, Rational, exp, floor, log, sin, sqrt

from mechanistic import (
    Event,
    KineticModel,
    Parameter,
    Reaction,
    State,
    delay,
    library,
    read_sbml,
    symbol,
    time,
    write_sbml,
)
from mechanistic.units import UnitError, parse_quantity, parse_unit

MODELS = [name for name in library.__all__ if name != "closed_form"]
MASSES, VOLUMES, TIMES = ("ng", "ug", "mg", "g", "kg"), ("uL", "mL", "dL", "L"), ("s", "min", "h", "day", "week")
TEXTS = (
    "mg", "mg/L", "mL/uU/min^2", "1e9/L", "10^9/L", "1/(mmol*s)", "L^2/nmol^2/min", "%", "1", "cells/mL", "kg", "h^0.5",
    "TCID50/mL/cell/day", "nmol*l^-1", "µg/mL", "Ω", "kat", "mg · L", "molecules", "m**(-2)", "mIU/L", "L/h/kg",
)  # fmt: skip


def oral(mass: str, volume: str, per: str, clearance_per: str = "") -> KineticModel:
    """One compartment with absorption, in any units."""
    ka, gut, clearance, size, central = sympy.symbols("ka gut CL V central")
    return KineticModel(
        "oral",
        states=(State("gut", unit=mass), State("central", unit=mass)),
        parameters=(
            Parameter("ka", 1.0, f"1/{per}"),
            Parameter("CL", 1.0, f"{volume}/{clearance_per or per}"),
            Parameter("V", 1.0, volume),
        ),
        reactions=(
            Reaction("absorption", "gut -> central", ka * gut),
            Reaction("elimination", "central ->", clearance / size * central),
        ),
        observables={"cp": central / size},
        time_unit=per,
    )


@cache
def biologists_pint() -> pint.UnitRegistry:
    """pint with what it does not know and the texts below use."""
    registry = pint.UnitRegistry(on_redefinition="ignore")
    for line in ("U = [activity]", "IU = [effect]", "cell = [cell]", "TCID50 = [TCID50]"):
        registry.define(line)
    return registry


def holding(expression, **units: str) -> KineticModel:
    """A model with one observable over parameters with the given units; time in h."""
    parameters = tuple(Parameter(name, 2.0, unit) for name, unit in units.items())
    return KineticModel("one", (State("x", unit="mg"),), parameters, observables={"y": expression}, time_unit="h")


def kinds(model: KineticModel) -> list[str]:
    return [finding.kind for finding in model.units().findings]


A, B, N, X = (symbol(name) for name in "abnx")


class TestText:
    @pytest.mark.parametrize("text", TEXTS)
    def test_what_pint_reads_is_read_alike(self, text):
        registry = biologists_pint()
        root = registry.Quantity(registry.parse_expression(text.replace("·", "*"))).to_root_units()
        ours = parse_unit(text)
        assert float(ours.factor) == pytest.approx(float(root.magnitude), rel=1e-12)
        assert sorted(map(float, ours.powers.values())) == sorted(power for _, power in root.unit_items())

    @pytest.mark.parametrize(
        "text",
        [
            "", " ", "mg//L", "9^9^9", "m^1e5", "()", "a" * 61, "m*" * 120 + "m",
            "(" * 11 + "m" + ")" * 11, "0", "1e999", "_m", "1e99*1e99*1e99",
            "__import__('os')", "m**(2**2)", "mg;L", "m^", "mg/", "2.5.1", "((m^20)^20)^20",
            "(1e90)^20", "(1e90)^19.5", "1e99999999", "m\x00", "(m", "m)", "m^n", "-m", "1/0",
            "1" * 30, "m^-", "\n", "m[0]", "m.real", "λ: 0",
        ],
    )  # fmt: skip
    def test_what_is_no_unit_is_refused(self, text):
        with pytest.raises(UnitError, match="cannot be read"):
            parse_unit(text)

    @settings(deadline=None, max_examples=200)
    @given(st.text(max_size=40) | st.text("mgLhs12^*/() .-e%", max_size=60))
    def test_any_text_is_a_unit_or_refused(self, text):
        with contextlib.suppress(UnitError):
            assert parse_unit(text).factor > 0

    @given(st.sampled_from(TEXTS), st.sampled_from(TEXTS))
    def test_units_form_a_group(self, first, second):
        a, b = parse_unit(first), parse_unit(second)
        assert (a * b).is_same(b * a)
        assert (a / b * b).is_same(a)
        assert (a**2 / a).is_same(a)
        assert parse_unit(f"({first})/({second})").is_same(a / b)

    @given(st.sampled_from(TEXTS), st.sampled_from(TEXTS))
    def test_there_and_back_is_the_identity(self, first, second):
        a, b = parse_unit(first), parse_unit(second)
        if a.fits(b):
            assert a.per(b) * b.per(a) == pytest.approx(1.0, rel=1e-15)

    def test_division_goes_from_left_to_right(self):
        assert parse_unit("mL/uU/min").is_same(parse_unit("mL/(uU*min)"))

    @pytest.mark.parametrize("text", ["mg/L", "nmol/L/s", "1/h", "mg/day", "kg", "1e9/L", "1000 U/L", "1", "mL"])
    def test_units_are_shown_as_people_write_them(self, text):
        assert str(parse_unit(text)) == text.replace("1e9", "1e+09")

    def test_an_unknown_name_is_a_dimension_of_its_own(self):
        unit = parse_unit("spheroids/well")
        assert unit.unknown == ("spheroids", "well")
        assert not unit.fits(parse_unit("1/well"))

    @pytest.mark.parametrize(("scale", "plain"), [("degC", "K"), ("degF", "K"), ("dBm", "mW"), ("dB", "1")])
    def test_scales_with_an_offset_or_a_logarithm_are_no_factors(self, scale, plain):
        assert not parse_unit(scale).fits(parse_unit(plain))

    def test_every_name_that_pint_has_is_read(self):
        for name in biologists_pint():
            with contextlib.suppress(UnitError):
                assert parse_unit(name).factor > 0

    def test_insulin_is_not_counted_in_micromoles_per_minute(self):
        assert not parse_unit("uU/mL").fits(parse_unit("mol/s/L"))

    @pytest.mark.parametrize(
        ("text", "number"),
        [
            ("100 mg", 100),
            ("0.1g", Fraction(1, 10)),
            (".1 g", Fraction(1, 10)),
            ("-1.5e-3 L", Fraction(-3, 2000)),
            ("2 1/h", 2),
        ],
    )
    def test_quantities_are_numbers_exactly_as_written(self, text, number):
        assert parse_quantity(text)[0] == number

    @pytest.mark.parametrize("text", ["mg", "100", "", "1 2", "nan mg", "inf mg", "1e999 mg", "1_000 mg", "x" * 300])
    def test_what_is_no_quantity_is_refused(self, text):
        with pytest.raises(UnitError, match="the quantity"):
            parse_quantity(text)


class TestRules:
    @pytest.mark.parametrize(
        "expression",
        [
            A + B, A - 2 * B, Max(A, B), Abs(A) + floor(B), Piecewise((A, A > B), (B, True)), Mod(A, B),
            A * exp(-A / B), log(A / B), sqrt(A * B) + A, (A / B) ** N, A**N / (A**N + B**N), A + X * 0,
            delay(A, time / 2) + B, sin(A / B), A + 0, Piecewise((0, time < 5), (A, True)),
            A * (1 - B / A), A * Rational(1, 3) + B,
        ],
    )  # fmt: skip
    def test_what_fits_is_left_alone(self, expression):
        model = holding(expression, a="mg", b="mg", n="1")
        assert model.units().is_consistent

    @pytest.mark.parametrize(
        "expression",
        [
            A + B, Max(A, B), Piecewise((A, B > 1), (B, True)), Piecewise((A, A > B), (0, True)), exp(A),
            log(A), sin(B), A**B, 2**A,
            A**N / (A + B), delay(A, B), A - 2 * B, sqrt(A) + A, Mod(A, B), (A / B + 1) * A, time + A,
        ],
    )  # fmt: skip
    def test_what_does_not_fit_is_found_once(self, expression):
        found = kinds(holding(expression, a="mg", b="L", n="1"))
        assert "inconsistent" in found
        assert len(found) == len(set(holding(expression, a="mg", b="L", n="1").units().findings))

    def test_a_switch_between_numbers_is_a_share_only_where_they_are_0_and_1(self):
        assert kinds(holding(A + B * Piecewise((0, time < 5), (1, True)), a="mg", b="L")) == ["assumed", "inconsistent"]
        assert "inconsistent" not in kinds(holding(A + B * Piecewise((0, time < 5), (0.3, True)), a="mg", b="L"))

    def test_a_course_in_time_made_of_numbers_has_no_unit(self):
        course = {"k": 0.5 * (1 + sin(time / 7.0)), "late": time}
        model = holding(A, a="mg", b="L")
        report = replace(model, assignments=course, observables={"y": A * symbol("k") + B}).units()
        assert "inconsistent" not in [finding.kind for finding in report.findings]
        assert report.unit("late").is_same(parse_unit("h"))

    def test_deep_and_fast_growing_expressions_are_followed_without_overrunning_anything(self):
        deep, growing = A, A + B
        for _ in range(100):
            deep = exp(sin(deep) / 3)
        for _ in range(12):
            growing = (growing + B) ** 19 + A
        model = holding(deep + growing, a="ng", b="ng")
        assert "inconsistent" in kinds(model)

    def test_what_has_no_unit_fits_everything(self):
        model = holding(A + B + A * B, a="mg", b="", n="")
        assert not {"inconsistent", "convertible"} & set(kinds(model))
        assert model.units().missing == ("b", "n")

    def test_a_missing_factor_is_named(self):
        report = holding(A + B, a="mL", b="L").units()
        assert kinds(holding(A + B, a="mL", b="L")) == ["convertible"]
        assert report.problems[0].endswith(("multiply the former by 1000", "multiply the former by 0.001"))

    def test_a_number_that_is_the_missing_factor_is_taken_for_it(self):
        assert holding(A + 1000 * B, a="mL", b="L").units().is_consistent
        assert not holding(A + 100 * B, a="mL", b="L").units().is_consistent

    def test_numbers_take_the_unit_of_what_stands_beside_them(self):
        report = holding(Piecewise((A, time > 5), (A + 3, True)), a="mg").units()
        assert report.is_consistent
        assert [f.kind for f in report.findings] == ["assumed", "assumed"]

    def test_a_constant_in_a_law_may_have_the_lacking_unit(self):
        model = KineticModel(
            "m", (State("x", unit="mg"),), reactions=(Reaction("r", "x ->", sympy.Float(0.37) * X),), time_unit="h"
        )
        assert kinds(model) == ["assumed"]
        counted = replace(model, reactions=(Reaction("r", "x ->", 2 * X),))
        assert kinds(counted) == ["inconsistent"]

    def test_a_unit_that_cannot_be_read_is_a_missing_one(self):
        report = holding(A + B, a="mg", b="mg//L").units()
        assert report.is_consistent
        assert [f.kind for f in report.findings] == ["missing"]
        assert "`b`" in repr(report)

    def test_initial_values_and_rates_are_compared_with_the_state(self):
        model = KineticModel(
            "m",
            (State("x", A, unit="mg"), State("y", B, unit="mg")),
            (Parameter("a", 1.0, "L"), Parameter("b", 1.0, "g")),
            rates={"x": B, "y": X / time},
            time_unit="h",
        )
        problems = model.units().problems
        assert [text.partition(":")[0] for text in problems] == ["initial value of `y`", "rate rule of `x`"]

    def test_events_are_compared_with_what_they_assign_and_with_time(self):
        event = Event("e", X > A, {"x": B}, delay=A, priority=A)
        parameters = (Parameter("a", 1.0, "h"), Parameter("b", 1.0, "g"))
        model = KineticModel("m", (State("x", unit="mg"),), parameters, events=(event,), time_unit="h")
        places = {f.place: f.kind for f in model.units().findings}
        assert places == {"trigger of event `e`": "inconsistent", "assignment to `x` of event `e`": "convertible"}

    def test_a_fast_reaction_has_a_rate_in_any_unit(self):
        fast = Reaction("r", "x ->", X - A, fast=True)
        model = KineticModel("m", (State("x", unit="mg"),), (Parameter("a", 1.0, "mg"),), (fast,), time_unit="h")
        assert model.units().is_consistent

    def test_assignments_carry_their_unit_on(self):
        model = KineticModel(
            "m",
            (State("x", unit="mg"),),
            (Parameter("a", 1.0, "L"), Parameter("b", 1.0, "mg/L")),
            assignments={"c": X / A, "d": symbol("c") + B},
            observables={"y": symbol("d") + A},
        )
        assert [f.place for f in model.units().findings] == ["observable `y`"]
        assert model.units().unit("d").is_same(parse_unit("mg/L"))


class TestModels:
    @pytest.mark.parametrize("name", MODELS)
    def test_the_models_of_the_library_do_not_contradict_themselves(self, name):
        assert not getattr(library, name)().units().problems

    @pytest.mark.parametrize("name", ["warfarin_pkpd", "boehm_stat5", "perelson_hiv"])
    def test_units_survive_a_file(self, name):
        model = getattr(library, name)()
        assert read_sbml(write_sbml(model)).units().problems == model.units().problems == ()

    @settings(deadline=None, max_examples=30)
    @given(st.sampled_from(MASSES), st.sampled_from(VOLUMES), st.sampled_from(TIMES))
    def test_one_set_of_units_throughout_is_consistent(self, mass, volume, per):
        report = oral(mass, volume, per).units()
        assert report.is_consistent
        assert not report.findings
        assert report.factor(f"{mass}/{volume}", "cp") == 1.0

    @settings(deadline=None, max_examples=30)
    @given(st.sampled_from(MASSES), st.sampled_from(VOLUMES), st.sampled_from(TIMES), st.sampled_from(TIMES))
    def test_one_unit_that_differs_is_found_with_its_factor(self, mass, volume, per, other):
        report = oral(mass, volume, per, other).units()
        ratio = parse_unit(f"1/{other}").per(parse_unit(f"1/{per}"))
        assert report.is_consistent == (per == other)
        assert all(f.kind == "convertible" and "elimination" in f.place for f in report.findings)
        assert all(text.endswith(f"multiply the former by {ratio:.6g}") for text in report.problems)

    @settings(deadline=None, max_examples=30)
    @given(st.sampled_from(MASSES), st.sampled_from(MASSES), st.integers(1, 10**6))
    def test_converted_there_and_back_it_is_the_same_number(self, first, second, number):
        there = oral(second, "L", "h").units().value(f"{number} {first}", "gut")
        back = oral(first, "L", "h").units().value(f"{there!r} {second}", "gut")
        assert back == pytest.approx(number, rel=1e-15)

    def test_mass_becomes_amount_of_substance_by_the_molar_mass(self):
        report = oral("nmol", "L", "h").units()
        with pytest.raises(UnitError, match="molar_mass"):
            report.value("100 mg", "gut")
        assert report.value("308.33 mg", "gut", molar_mass="308.33 g/mol") == 1e6
        assert oral("mg", "L", "h").units().value("1 mmol", "gut", molar_mass="308.33 kg/kmol") == 308.33
        assert report.factor("mg/L", "cp", molar_mass="200 g/mol") == 5000.0

    @pytest.mark.parametrize("molar_mass", ["180", "180 g", "0 g/mol", "-1 g/mol", "g/mol"])
    def test_what_is_no_molar_mass_is_refused(self, molar_mass):
        with pytest.raises(UnitError):
            oral("nmol", "L", "h").units().value("100 mg", "gut", molar_mass=molar_mass)

    def test_a_molar_mass_does_not_help_other_dimensions(self):
        with pytest.raises(UnitError, match="different dimensions"):
            oral("nmol", "L", "h").units().value("1 h", "gut", molar_mass="180 g/mol")

    def test_units_that_are_not_known_for_sure_are_not_converted_to(self):
        report = holding(1000 * A, a="mg", b="").units()
        with pytest.raises(UnitError, match="number in it"):
            report.factor("mg", "y")
        with pytest.raises(UnitError, match="`1` for no dimension"):
            report.factor("mg", "b")
        with pytest.raises(UnitError, match="no quantity `aa`"):
            report.factor("mg", "aa")

    def test_the_report_is_shown_as_text_as_a_table_and_as_html(self):
        model = replace(oral("mg", "L", "h", "day"), name="<b>oral</b>")
        report = model.units()
        assert "1 problem(s)" in repr(report)
        assert "1 problem(s)" in report._repr_html_()
        assert "<b>" not in report._repr_html_()
        table = report.table().set_index("name")
        assert table.loc["CL", "unit"] == "L/day"
        assert table.loc["cp", "meaning"] == "mg/L"
        assert list(table.index) == ["time", "gut", "central", "ka", "CL", "V", "cp"]

    def test_nothing_in_the_model_changes(self):
        model = oral("mg", "L", "h", "day")
        before = model.digest
        model.units()
        assert model.digest == before
