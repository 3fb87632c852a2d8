"""The mechanism of a hybrid as an SBML file for other programs."""

from collections.abc import Iterable
from pathlib import Path
from typing import cast

from hybrid.coupling import CouplingError, ParameterCurve, ParameterDrive
from hybrid.field import HybridField
from hybrid.results import Fit
from mechanistic.compile import RateField
from mechanistic.field import AbstractVectorField
from mechanistic.sbml import write_sbml as write_mechanism


def write_sbml(source: AbstractVectorField | Fit, path: str | Path | None = None) -> str:
    """The mechanism of a field or a fit as SBML: what was read, with the values that were fitted.

    The values of a fit are those of the typical subject with its covariates at their reference. The file is the
    mechanism alone and valid by itself: it holds no learned fluxes, and a driven parameter stands at the value around
    which it is driven, with an annotation that `mechanistic.read_driven` finds. `Fit.save` keeps everything.

    Args:
        source: a `RateField`, a `HybridField`, or a fit of one.
        path: file to write as well; it is replaced as a whole or not at all.

    Raises:
        CouplingError: for a field without a symbolic mechanism.
        ModelError: lists every expression that has no counterpart in SBML.
    """
    field = source.simulator.field if isinstance(source, Fit) else source
    if not isinstance(field, RateField | HybridField):
        problem = f"the field is a {type(field).__name__}; give a RateField, a HybridField or a fit of one"
        raise CouplingError("there is no mechanism to write:", [problem])
    model = field.model
    if isinstance(source, Fit):
        space = source.simulator.population.space
        values = dict(zip(space.parameter_names, space.full(source.unknowns.values.typical).tolist(), strict=True))
        model = model.with_values(**{name: values[name] for name in model.parameter_names})
    drives = cast(Iterable[ParameterDrive | ParameterCurve], field.drives if isinstance(field, HybridField) else ())
    return write_mechanism(model, path, driven={drive.parameter: _cause(drive) for drive in drives})


def _cause(drive: ParameterDrive | ParameterCurve) -> str:
    if isinstance(drive, ParameterCurve):
        return "a measured curve"
    return f"a network of {', '.join(drive.inputs)}"
