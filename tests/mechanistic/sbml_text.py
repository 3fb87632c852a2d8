"""Small SBML files for tests, put together from pieces of XML."""

from collections.abc import Mapping

MATHML = "http://www.w3.org/1998/Math/MathML"
SYMBOLS = "http://www.sbml.org/sbml/symbols"
TIME = f'<csymbol encoding="text" definitionURL="{SYMBOLS}/time">t</csymbol>'
AVOGADRO = f'<csymbol encoding="text" definitionURL="{SYMBOLS}/avogadro">NA</csymbol>'


def math(body: str) -> str:
    """A `math` element."""
    return f'<math xmlns="{MATHML}">{body}</math>'


def apply(operator: str, *arguments: str) -> str:
    """`operator` of MathML applied to arguments: names, numbers, or pieces of XML."""
    return f"<apply><{operator}/>{''.join(map(term, arguments))}</apply>"


def call(function: str, *arguments: str) -> str:
    """A function definition applied to arguments."""
    return f"<apply><ci>{function}</ci>{''.join(map(term, arguments))}</apply>"


def term(text: str) -> str:
    """A name or a number as XML; XML stays as it is."""
    if text.startswith("<"):
        return text
    return f"<cn>{text}</cn>" if text[0].isdigit() or text[0] == "-" else f"<ci>{text}</ci>"


def delayed(body: str, lag: str) -> str:
    """The csymbol `delay`."""
    symbol = f'<csymbol encoding="text" definitionURL="{SYMBOLS}/delay">d</csymbol>'
    return f"<apply>{symbol}{term(body)}{term(lag)}</apply>"


def listed(name: str, *items: str) -> str:
    """A `listOf...` element, or nothing when it would be empty."""
    return f"<listOf{name}>{''.join(items)}</listOf{name}>" if items else ""


def sbml(*lists: str, attributes: str = "", level: int = 3, version: int = 2, root: str = "") -> str:
    """A whole file; `lists` in the order of the standard."""
    core = f"http://www.sbml.org/sbml/level{level}/version{version}" + ("/core" if level == 3 else "")
    head = f'<sbml xmlns="{core}" level="{level}" version="{version}" {root}>'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{head}<model id="m" {attributes}>{"".join(lists)}</model></sbml>'


def compartment(name: str, size: str = "1", constant: bool = True, dimensions: str = "3") -> str:
    """A compartment; `size` may be empty."""
    value = f'size="{size}"' if size else ""
    return f'<compartment id="{name}" spatialDimensions="{dimensions}" {value} constant="{_flag(constant)}"/>'


def species(name: str, where: str, value: str = "", amounts: bool = False, boundary: bool = False, **more: str) -> str:
    """A species; `value` is one attribute, for instance `initialAmount="2"`."""
    flags = f'hasOnlySubstanceUnits="{_flag(amounts)}" boundaryCondition="{_flag(boundary)}"'
    rest = " ".join(f'{key}="{text}"' for key, text in ({"constant": "false"} | more).items())
    return f'<species id="{name}" compartment="{where}" {value} {flags} {rest}/>'


def parameter(name: str, value: str = "", constant: bool = True, more: str = "") -> str:
    """A parameter; `value` may be empty."""
    number = f'value="{value}"' if value else ""
    return f'<parameter id="{name}" {number} constant="{_flag(constant)}" {more}/>'


def assigned(variable: str, body: str) -> str:
    """An assignment rule."""
    return f'<assignmentRule variable="{variable}">{math(term(body))}</assignmentRule>'


def rate(variable: str, body: str) -> str:
    """A rate rule."""
    return f'<rateRule variable="{variable}">{math(term(body))}</rateRule>'


def initially(variable: str, body: str) -> str:
    """An initial assignment."""
    return f'<initialAssignment symbol="{variable}">{math(term(body))}</initialAssignment>'


def reference(name: str, stoichiometry: str = "1", identity: str = "", constant: bool = True) -> str:
    """A species that takes part in a reaction."""
    count = f'stoichiometry="{stoichiometry}"' if stoichiometry else ""
    label = f'id="{identity}"' if identity else ""
    return f'<speciesReference {label} species="{name}" {count} constant="{_flag(constant)}"/>'


def reaction(name: str, left: str, right: str, law: str, modifiers: str = "", local: str = "", more: str = "") -> str:
    """A reaction with a kinetic law."""
    modifier = "".join(f'<modifierSpeciesReference species="{each}"/>' for each in modifiers.split())
    parts = listed("Reactants", *([left] if left else [])) + listed("Products", *([right] if right else []))
    parts += listed("Modifiers", *([modifier] if modifier else []))
    kinetics = f"<kineticLaw>{math(term(law))}{local}</kineticLaw>"
    return f'<reaction id="{name}" reversible="false" {more}>{parts}{kinetics}</reaction>'


def event(name: str, trigger: str, changes: Mapping[str, str], parts: str = "", trigger_values: bool = True) -> str:
    """An event of Level 3, persistent, and not triggered at the start; `parts` are its delay and its priority."""
    condition = f'<trigger initialValue="true" persistent="true">{math(trigger)}</trigger>'
    items = (f'<eventAssignment variable="{n}">{math(term(body))}</eventAssignment>' for n, body in changes.items())
    label = f'id="{name}"' if name else ""
    head = f'<event {label} useValuesFromTriggerTime="{_flag(trigger_values)}">'
    return f"{head}{condition}{parts}{listed('EventAssignments', *items)}</event>"


def function(name: str, arguments: str, body: str) -> str:
    """A function definition."""
    bound = "".join(f"<bvar><ci>{argument}</ci></bvar>" for argument in arguments.split())
    return f'<functionDefinition id="{name}">{math(f"<lambda>{bound}{term(body)}</lambda>")}</functionDefinition>'


def _flag(value: bool) -> str:
    return "true" if value else "false"
