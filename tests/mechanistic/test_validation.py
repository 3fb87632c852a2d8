"""The report of an import: what it finds right, what it finds wrong, and what it cannot tell."""

import json
import re
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("roadrunner")

import mechanistic as mech
from mechanistic.errors import InvalidSBML, SolveError
from mechanistic.model import KineticModel, Parameter, Reaction, State, symbol
from mechanistic.sbml import write_sbml
from mechanistic.validation import agreement, gradients, run
from mechanistic.validation import horizon as horizons
from mechanistic.validation.patience import OutOfTime, time_limit
from mechanistic.validation.report import Check, Verdict
from tests.mechanistic.sbml_text import apply, assigned, compartment, listed, math, parameter, reaction, reference, sbml
from tests.mechanistic.sbml_text import species as species_of

A, B, FORWARD, BACKWARD = symbol("A"), symbol("B"), symbol("forward"), symbol("backward")
EXCHANGE = KineticModel(
    "exchange",
    [State("A", 3.0, "nmol"), State("B", 1.0, "nmol")],
    [Parameter("forward", 0.3), Parameter("backward", 0.1)],
    [Reaction("there", "A -> B", FORWARD * A), Reaction("back", "B -> A", BACKWARD * B)],
    observables={"share": A / (A + B)},
    time_unit="h",
)


def validated(model, **options):
    return mech.validate(model, progress=False, **options)


@pytest.fixture(scope="module")
def exchange():
    return validated(EXCHANGE)


def test_a_model_without_faults_is_found_without_faults(exchange):
    assert exchange.ok
    assert {check.verdict for check in exchange.checks} == {Verdict.GOOD, Verdict.OPEN}
    # What is left open is what needs a file.
    assert [c.name for c in exchange.checks if c.verdict is Verdict.OPEN] == ["libsbml", "roadrunner, the file"]
    assert not exchange.interrupted


def test_the_numbers_are_those_of_the_closed_form(exchange):
    # The only mode that is not conserved is exp(-(forward + backward) t), and it is stable.
    assert exchange["steady state"].numbers["largest real part"] == pytest.approx(-0.4, rel=1e-9)
    assert exchange["stiffness"].numbers["ratio"] == pytest.approx(1.0)
    assert exchange.horizon == 25.0
    assert exchange["conserved totals"].numbers["totals"] == 1
    assert "A + B" in exchange["conserved totals"].sentence
    # Runge-Kutta methods keep linear invariants: what is left is rounding.
    assert exchange["totals over time"].numbers["drift"] < 1e-13
    assert exchange["roadrunner, our SBML"].numbers["error"] < 1e-8
    assert exchange["roadrunner, our SBML"].numbers["quantities"] == 3
    # Differences with a relative step of 1e-3 err by about its square.
    assert exchange["gradients"].numbers["error"] < 1e-4


def test_the_report_can_be_read_by_people_and_programs(exchange, tmp_path):
    text = str(exchange)
    assert text.splitlines()[0].startswith("`exchange` up to t = 25 h: nothing wrong")
    assert max(map(len, text.splitlines())) <= 120
    assert all(check.name in text for check in exchange.checks)
    assert "<table" in exchange._repr_html_()
    data = exchange.dataset()
    assert data["verdict"].sel(check="gradients") == "GOOD"
    assert float(data["totals over time: totals"]) == 1.0
    again = json.loads(json.dumps(exchange.record()))
    assert [check["name"] for check in again["checks"]] == [check.name for check in exchange.checks]
    assert again["ok"] is True
    with pytest.raises(KeyError, match="gradients"):
        exchange["gradient"]


def test_the_page_needs_nothing_beside_it(exchange, tmp_path):
    path = tmp_path / "report.html"
    exchange.to_html(path)
    page = path.read_text("utf-8")
    assert "src='data:image/png;base64," in page
    assert not re.search(r"(src|href)\s*=\s*['\"](?!data:)", page)
    assert list(tmp_path.iterdir()) == [path]


def test_text_of_a_model_never_becomes_markup(tmp_path):
    name = "<script>alert(1)</script>"
    report = mech.Validation(name, (Check(name, Verdict.LOOK, name, details=(name,)),), 1.0)
    report.to_html(tmp_path / "report.html")
    assert "<script>" not in (tmp_path / "report.html").read_text("utf-8")


def test_both_simulations_are_kept_for_the_picture(exchange):
    data = exchange["roadrunner, our SBML"].trajectories
    exact = 1.0 + 2.0 * np.exp(-0.4 * data["time"].values)
    for origin in ("kinetwin", "roadrunner"):
        np.testing.assert_allclose(data["A"].sel(origin=origin), exact, rtol=1e-8)


def test_a_file_is_read_and_run_as_it_stands(tmp_path):
    path = tmp_path / "exchange.xml"
    write_sbml(EXCHANGE, path)
    report = validated(path)
    assert report.ok
    assert report["roadrunner, the file"].verdict is Verdict.GOOD
    assert report["libsbml"].verdict in (Verdict.GOOD, Verdict.LOOK)
    assert report["contents"].sentence.startswith("SBML Level 3 Version 2: 2 species")


def test_an_import_that_changed_a_number_is_found():
    report = validated(EXCHANGE.with_values(forward=0.303), source=write_sbml(EXCHANGE))
    assert not report.ok
    assert report["roadrunner, our SBML"].verdict is Verdict.GOOD
    assert report["roadrunner, the file"].verdict is Verdict.WRONG
    # The share at rest is backward / (forward + backward); one percent of `forward` is three quarters of one of it.
    assert report["roadrunner, the file"].numbers["error"] > 1e-3


def test_a_reference_that_says_otherwise_is_found(monkeypatch):
    honest = agreement.values_written
    monkeypatch.setattr(agreement, "values_written", lambda m, at: honest(m.with_values(backward=0.1001), at))
    report = validated(EXCHANGE)
    assert [c.name for c in report.checks if c.verdict is Verdict.WRONG] == ["roadrunner, our SBML"]


def test_a_wrong_gradient_is_found(monkeypatch):
    honest = gradients.simulate

    def doubled(model, times, p, **options):
        return honest(model, times, p + (p - p.detach()), **options)

    monkeypatch.setattr(gradients, "simulate", doubled)
    report = validated(EXCHANGE)
    assert report["gradients"].verdict is Verdict.WRONG
    assert report["gradients"].numbers["error"] == pytest.approx(0.5, rel=1e-2)


def test_a_gradient_that_is_not_a_number_is_found(monkeypatch):
    honest = gradients.simulate

    def broken(model, times, p, **options):
        # The root of zero has an infinite derivative, and zero times that is not a number.
        return honest(model, times, p + 0 * (p - p.detach()).sqrt(), **options)

    monkeypatch.setattr(gradients, "simulate", broken)
    found = validated(EXCHANGE)["gradients"]
    assert found.verdict is Verdict.WRONG
    assert "not a number for `forward`, `backward`" in found.sentence


def test_a_state_below_zero_is_found():
    sinking = KineticModel("sinking", [State("A", 1.0)], [Parameter("k", 1.0)], rates={"A": -symbol("k")})
    report = validated(sinking)
    assert report["positivity"].verdict is Verdict.LOOK
    assert report["lowest value"].verdict is Verdict.WRONG
    assert not report.ok


def test_a_simulation_that_stops_is_wrong_and_the_rest_says_why():
    k = symbol("k")
    blows_up = KineticModel("blow up", [State("A", 1.0)], [Parameter("k", 1.0)], rates={"A": k * A**2})
    report = validated(blows_up)
    # dA/dt = A² from 1 is infinite at t = 1, and the slowest time scale at the start is 1/2.
    assert report["simulation"].verdict is Verdict.WRONG
    assert "t = 1 " in report["simulation"].sentence
    assert report["lowest value"].verdict is Verdict.OPEN
    assert report["positivity"].verdict is Verdict.GOOD


def test_what_the_reference_cannot_run_is_said():
    rule = f"<algebraicRule>{math(apply('minus', 'y', apply('times', '2', 'A')))}</algebraicRule>"
    text = sbml(
        listed("Compartments", compartment("c")),
        listed("Species", species_of("A", "c", 'initialAmount="1"', amounts=True)),
        listed("Parameters", parameter("k", "1"), parameter("y", constant=False)),
        listed("Rules", rule),
        listed("Reactions", reaction("r", reference("A"), "", apply("times", "k", "A"))),
    )
    found = validated(text)["roadrunner, the file"]
    assert found.verdict is Verdict.OPEN
    assert "algebraic rules" in found.sentence
    assert "rrllvm" not in found.sentence


def test_an_unused_parameter_is_named():
    report = validated(KineticModel("m", [State("A", 1.0)], [Parameter("k", 1.0), Parameter("spare", 2.0)],
                                    rates={"A": -symbol("k") * A}))  # fmt: skip
    assert report["parameters"].verdict is Verdict.LOOK
    assert "`spare`" in report["parameters"].sentence
    assert report.ok


def test_a_model_in_which_nothing_happens_is_no_error():
    report = validated(KineticModel("empty", []))
    assert report.ok


def test_an_unstable_rest_is_worth_a_look():
    k = symbol("k")
    # dA/dt = k (A - 1) from 1: at rest, and away from it with the rate k.
    report = validated(KineticModel("edge", [State("A", 1.0)], [Parameter("k", 0.5)], rates={"A": k * (A - 1)}))
    assert report["steady state"].verdict is Verdict.LOOK
    assert report["steady state"].numbers["largest real part"] == pytest.approx(0.5)


def test_one_rest_of_a_continuum_is_told_as_such():
    rate = symbol("k") * A * B
    # An epidemic ends with any number of those who did not fall ill.
    epidemic = KineticModel("epidemic", [State("A", 0.99), State("B", 0.01)], [Parameter("k", 2.0)],
                            [Reaction("infect", "A + B -> 2 B", rate), Reaction("recover", "B ->", B)])  # fmt: skip
    check = validated(epidemic, horizon=60.0)["steady state"]
    assert check.verdict is Verdict.GOOD
    assert "one of a continuum" in check.sentence


def test_a_fault_of_one_check_does_not_stop_the_others(monkeypatch):
    def faulty(case):
        raise RuntimeError("a fault <of mine>")

    monkeypatch.setattr(run, "CHECKS", (("faulty", faulty), *run.CHECKS[:4]))
    report = validated(EXCHANGE)
    assert report["faulty"].verdict is Verdict.OPEN
    assert "a fault <of mine>" in report["faulty"].sentence
    assert len(report.checks) == 5
    assert report["parameters"].verdict is Verdict.GOOD


def test_a_check_without_end_is_stopped(monkeypatch):
    def endless(case):
        while True:
            time.sleep(0.01)

    monkeypatch.setattr(run, "CHECKS", (("endless", endless), *run.CHECKS[:1]))
    report = validated(EXCHANGE, seconds=0.2)
    assert "stopped after 0.2 s" in report["endless"].sentence
    assert report["contents"].verdict is Verdict.GOOD


def test_an_interrupt_keeps_what_is_done(monkeypatch):
    def interrupted(case):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "CHECKS", (run.CHECKS[0], ("interrupted", interrupted), run.CHECKS[2]))
    report = validated(EXCHANGE)
    assert report.interrupted
    assert [check.verdict for check in report.checks] == [Verdict.GOOD, Verdict.OPEN, Verdict.OPEN]
    assert "interrupted" in report.headline


def test_the_limit_is_off_in_other_threads():
    passed = []

    def work():
        with time_limit(1e-3):
            time.sleep(0.02)
            passed.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert passed


def test_the_limit_leaves_the_alarm_as_it_was():
    import signal

    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(OutOfTime), time_limit(0.01):
        time.sleep(5)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


@pytest.mark.parametrize("value", [0.0, -1.0, np.inf, np.nan, "3 days"])
def test_limits_that_are_no_numbers_are_listed(value):
    with pytest.raises(SolveError) as refusal:
        validated(EXCHANGE, horizon=value, tolerance=value, seconds=value)
    problems = refusal.value.problems
    assert [problem.partition(" is ")[0] for problem in problems] == ["`horizon`", "`tolerance`", "`seconds`"]


def test_an_antimony_file_is_read_and_checked(tmp_path):
    path = tmp_path / "decay.ant"
    path.write_text("model decay\n  x' = -k*x\n  x = 1; k = 2\nend\n", "utf-8")
    for source in (path, str(path), path.read_text("utf-8")):
        report = validated(source, horizon=1.0)
        assert report.ok
        assert report["roadrunner, the file"].verdict is Verdict.OPEN


def test_a_file_that_cannot_be_read_is_an_error():
    with pytest.raises(InvalidSBML):
        validated("<sbml/>")


def test_the_horizon_reaches_past_the_times_at_which_a_model_switches():
    import sympy

    late, now = symbol("late"), mech.time
    pulse = KineticModel(
        "pulse",
        [State("A", 0.0)],
        [Parameter("late", 400.0), Parameter("k", 1.0)],
        rates={"A": sympy.Piecewise((1, 2 * now > late), (0, True)) - symbol("k") * A},
    )
    assert horizons.switch_times(pulse) == [200.0]
    assert horizons.choose_horizon(pulse, mech.RateField(pulse)).end == 300.0


@given(st.floats(1e-200, 1e200))
def test_a_horizon_is_rounded_up_to_two_digits(value):
    rounded = horizons.rounded_up(value)
    # Up to the last bits: a value that has two digits stays as it is.
    assert value * (1 - 1e-9) <= rounded <= value * 1.1 * (1 + 1e-9)
    assert float(f"{rounded:.1e}") == pytest.approx(rounded, rel=1e-12)


def test_output_times_begin_at_the_start_and_end_at_the_horizon():
    times = horizons.output_times(3.0)
    assert times[0] == 0.0
    assert times[-1] == 3.0
    assert (np.diff(times) > 0).all()


def test_a_jump_at_an_output_time_agrees_with_either_side():
    import sympy

    step = KineticModel(
        "step", [State("A", 1.0)], [Parameter("k", 0.5)],
        rates={"A": -symbol("k") * A},
        assignments={"u": sympy.Piecewise((0, mech.time < 5), (7, True))},
        observables={"seen": symbol("u") + A},
    )  # fmt: skip
    clock = np.array([0.0, 5.0, 10.0])
    before, at, after = (mech.reference.values_here(step, clock, tolerance=1e-6)[i]["u"] for i in (1, 0, 2))
    assert (before[1], at[1], after[1]) == (0.0, 7.0, 7.0)
    for shown in ([0.0, 0.0, 7.0], [0.0, 7.0, 7.0]):
        report = mech.reference.compare(
            step, clock, [{"u": at}, {"u": before}, {"u": after}], {"written": {"u": np.array(shown)}}, 1e-6
        )
        assert report.agrees
    assert mech.reference.check(step, clock).agrees


def test_assignments_are_compared_as_well():
    text = sbml(
        listed("Compartments", compartment("c", "2")),
        listed("Species", species_of("A", "c", 'initialConcentration="1"')),
        listed("Parameters", parameter("k", "1"), parameter("y", constant=False)),
        listed("Rules", assigned("y", apply("times", "3", "A"))),
        listed("Reactions", reaction("r", reference("A"), "", apply("times", "k", "y"))),
    )
    model = mech.read_sbml(text)
    report = mech.reference.check(model, np.linspace(0, 1, 5), source=text)
    assert report.agrees
    assert {row.quantity for row in report.rows if row.against == "source"} >= {"A", "y", "[A]"}


def test_a_picture_shows_jumps_between_the_times_that_are_compared():
    """x starts at 1, decays at rate 1, and is set to 1 again each time that `period` has passed."""
    period = 1.037
    x, due = symbol("x"), symbol("due")
    again = mech.Event("again", mech.time >= due, {"x": 1, "due": due + period})
    model = KineticModel("saw", [State("x", 1.0), State("due", period)], [], [Reaction("r", "x ->", x)], events=[again])
    shown = validated(model, horizon=30.0)["roadrunner, our SBML"].trajectories
    line, dots = shown["x"].values
    since = shown["time"].values % period
    far = (since > 0.01) & (since < period - 0.01)
    # The line is solved with a relative tolerance of 1e-4.
    assert np.allclose(line[far], np.exp(-since[far]), rtol=1e-3)
    assert np.isfinite(line).all()
    assert np.diff(shown["time"]).max() < 0.06
    assert 30 < np.isfinite(dots).sum() < 100
