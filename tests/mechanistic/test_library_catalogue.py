"""What holds for every model of the library."""

import inspect

import pytest

from mechanistic import library
from mechanistic.conservation import Outcome, check_positivity
from mechanistic.model import KineticModel

NAMES = [name for name in library.__all__ if name != "closed_form"]


def test_the_public_names_are_sorted_and_complete():
    assert list(library.__all__) == sorted(library.__all__)
    functions = {name for name, value in vars(library).items() if inspect.isfunction(value)}
    assert functions | {"closed_form"} == set(library.__all__)
    assert len(NAMES) >= 15


@pytest.mark.parametrize("name", NAMES)
def test_every_model_says_where_it_comes_from_and_what_is_known(name):
    function = getattr(library, name)
    model = function()
    assert isinstance(model, KineticModel)
    assert model == function()
    assert "Source:" in function.__doc__ or "Structure:" in function.__doc__
    assert "Known:" in function.__doc__
    assert model.source
    assert model.observables
    assert all(parameter.description for parameter in model.parameters)
    assert all(state.scale is not None and state.scale > 0 for state in model.states)
    used = {symbol.name for symbol in model.used_symbols()}
    assert set(model.parameter_names) <= used


@pytest.mark.parametrize("name", NAMES)
def test_amounts_stay_non_negative(name):
    report = check_positivity(getattr(library, name)())
    assert not [entry.state for entry in report.states if entry.outcome is Outcome.UNPROVEN]
    if name == "warfarin_pkpd":
        # An inhibited share above one would make the production negative; the published one is one.
        spoiled = [entry for entry in report.states if entry.outcome is Outcome.REFUTED]
        assert [(entry.state, entry.reactions, entry.at_nominal) for entry in spoiled] == [
            ("PCA", ("production",), False)
        ]
        assert spoiled[0].counterexample["Imax"] > 1.0
    else:
        assert report.holds


def test_a_chain_needs_a_compartment():
    with pytest.raises(ValueError, match="at least 1 transit compartment"):
        library.transit_absorption(compartments=0)
