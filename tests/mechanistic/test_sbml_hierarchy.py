"""Models made of submodels: the equations of the flat model, and no file is opened that the folder does not hold."""

import os
import time as clock

import pytest
import sympy

from mechanistic.errors import InvalidSBML, UnsupportedSBML
from mechanistic.model import symbol, time
from mechanistic.sbml import read_sbml, write_sbml
from tests.mechanistic.sbml_text import TIME, apply, compartment, listed, parameter, rate, reaction, reference, species
from tests.mechanistic.sbml_text import sbml as plain

COMP = "http://www.sbml.org/sbml/level3/version1/comp/version1"
DECAY = (
    listed("Compartments", compartment("V", "2"))
    + listed("Species", species("S", "V", 'initialAmount="3"', amounts=True))
    + listed("Parameters", parameter("k", "0.25"))
    + listed("Reactions", reaction("J", reference("S"), "", apply("times", "k", "S")))
)


def submodels(*items: str) -> str:
    return f"<comp:listOfSubmodels>{''.join(items)}</comp:listOfSubmodels>"


def submodel(name: str, model: str, more: str = "") -> str:
    return f'<comp:submodel comp:id="{name}" comp:modelRef="{model}" {more}/>'


def definition(name: str, *lists: str) -> str:
    return f'<comp:modelDefinition id="{name}">{"".join(lists)}</comp:modelDefinition>'


def external(name: str, source: str, model: str = "") -> str:
    chosen = f'comp:modelRef="{model}"' if model else ""
    return f'<comp:externalModelDefinition comp:id="{name}" comp:source="{source}" {chosen}/>'


def composed(*lists: str, definitions: str = "", externals: str = "") -> str:
    """A file with definitions of submodels behind its model."""
    text = plain(*lists, root=f'xmlns:comp="{COMP}" comp:required="true"')
    rest = f"<comp:listOfModelDefinitions>{definitions}</comp:listOfModelDefinitions>" if definitions else ""
    if externals:
        rest += f"<comp:listOfExternalModelDefinitions>{externals}</comp:listOfExternalModelDefinitions>"
    return text.replace("</model></sbml>", f"</model>{rest}</sbml>")


def test_two_copies_of_a_submodel_are_two_sets_of_equations():
    parts = submodels(submodel("left", "decay"), submodel("right", "decay"))
    model = read_sbml(composed(parts, definitions=definition("decay", DECAY)))
    assert set(model.state_names) == {"left__S", "right__S"}
    for side in ("left", "right"):
        change = model.expand(model.derivatives()[f"{side}__S"])
        assert sympy.simplify(change + symbol(f"{side}__k") * symbol(f"{side}__S")) == 0
    assert read_sbml(write_sbml(model)) == model


def test_a_replaced_parameter_is_one_parameter():
    replaced = "<comp:listOfReplacedElements>" + "".join(
        f'<comp:replacedElement comp:idRef="k" comp:submodelRef="{side}"/>' for side in ("left", "right")
    )
    shared = parameter("common", "0.5").replace("/>", f">{replaced}</comp:listOfReplacedElements></parameter>")
    parts = submodels(submodel("left", "decay"), submodel("right", "decay"))
    text = composed(listed("Parameters", shared), parts, definitions=definition("decay", DECAY))
    model = read_sbml(text)
    assert model.derivatives()["left__S"].free_symbols == {symbol("common"), symbol("left__S")}
    assert model.nominal()["common"] == 0.5
    assert not {"left__k", "right__k"} & set(model.parameter_names)


def test_conversion_factors_scale_time_and_extent():
    # In a submodel whose time is t/f, dx/dt is divided by f, and the symbol of time stands for t/f.
    clock_model = definition(
        "inner",
        listed("Parameters", parameter("x", "1", constant=False), parameter("y", "1", constant=False)),
        listed("Rules", rate("x", apply("times", "0.5", "x")), rate("y", TIME)),
    )
    parts = submodels(submodel("A", "inner", 'comp:timeConversionFactor="f"'))
    model = read_sbml(composed(listed("Parameters", parameter("f", "60")), parts, definitions=clock_model))
    x, f = symbol("A__x"), symbol("f")
    assert sympy.simplify(model.expand(model.derivatives()["A__x"]) - x / (2 * f)) == 0
    assert sympy.simplify(model.expand(model.derivatives()["A__y"]) - time / f**2) == 0

    parts = submodels(submodel("A", "decay", 'comp:extentConversionFactor="e"'))
    model = read_sbml(
        composed(listed("Parameters", parameter("e", "7")), parts, definitions=definition("decay", DECAY))
    )
    # Extents of the submodel are multiplied by e before they change amounts.
    assert sympy.simplify(model.derivatives()["A__S"] + symbol("e") * symbol("A__k") * symbol("A__S")) == 0


def test_doubles_of_a_submodel_keep_their_last_bit():
    value = 0.1 + 0.2
    inner = definition("inner", listed("Parameters", parameter("x", repr(value))))
    model = read_sbml(composed(submodels(submodel("A", "inner")), definitions=inner))
    assert model.nominal() == {"A__x": value}


def test_a_model_with_the_package_and_without_submodels_is_the_model():
    assert read_sbml(composed(DECAY)) == read_sbml(plain(DECAY))


def test_a_submodel_of_another_file_of_the_folder(tmp_path):
    (tmp_path / "decay.xml").write_text(plain(DECAY).replace('<model id="m"', '<model id="decay"'))
    (tmp_path / "middle.xml").write_text(composed(externals=external("again", "decay.xml", "decay")))
    main = tmp_path / "main.xml"
    for source, chosen in (("decay.xml", ""), ("./decay.xml", "decay"), ("middle.xml", "again")):
        parts = submodels(submodel("A", "outside"))
        main.write_text(composed(parts, externals=external("outside", source, chosen)))
        assert read_sbml(main).state_names == ("A__S",)


def test_a_text_has_no_folder():
    text = composed(submodels(submodel("A", "outside")), externals=external("outside", "decay.xml"))
    with pytest.raises(UnsupportedSBML, match="read it from a file"):
        read_sbml(text)


SOURCES = [
    "../decay.xml",
    "sub/decay.xml",
    "./../decay.xml",
    ".\\..\\decay.xml",
    "/etc/passwd",
    "file:///etc/passwd",
    "http://127.0.0.1:9/decay.xml",
    "https://127.0.0.1:9/decay.xml",
    "urn:miriam:biomodels.db:BIOMD0000000127",
    "%2e%2e/decay.xml",
    "..",
    ".",
    "",
]


@pytest.mark.parametrize("source", SOURCES)
def test_what_is_not_a_name_of_the_folder_is_never_opened(tmp_path, source):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path, folder / "sub"):
        (place / "decay.xml").write_text(plain(DECAY))
    main = folder / "main.xml"
    main.write_text(composed(submodels(submodel("A", "outside")), externals=external("outside", source)))
    with pytest.raises(UnsupportedSBML, match="not the name of a file in the folder"):
        read_sbml(main)


def test_links_pipes_folders_and_missing_files_are_refused(tmp_path):
    folder = tmp_path / "folder"
    (folder / "directory.xml").mkdir(parents=True)
    (tmp_path / "decay.xml").write_text(plain(DECAY))
    (folder / "link.xml").symlink_to(tmp_path / "decay.xml")
    os.mkfifo(folder / "pipe.xml")
    main = folder / "main.xml"
    for name, part in (("link", "a link"), ("pipe", "plain file"), ("directory", "`directory"), ("none", "opened")):
        main.write_text(composed(submodels(submodel("A", "outside")), externals=external("outside", f"{name}.xml")))
        with pytest.raises(UnsupportedSBML, match=part):
            read_sbml(main)


def test_files_of_submodels_are_as_little_trusted_as_the_main_one(tmp_path):
    main = tmp_path / "main.xml"
    main.write_text(composed(submodels(submodel("A", "outside")), externals=external("outside", "part.xml")))
    part = tmp_path / "part.xml"
    hostile = {
        "document type": plain(DECAY).replace("?>\n", '?>\n<!DOCTYPE sbml [<!ENTITY a "b">]>'),
        "nested deeper": plain().replace("<model", "<a>" * 1000 + "<model"),
        "well-formed": "<",
        "root element": "<html/>",
        "not defined": plain(listed("Reactions", reaction("J", "", "", "unknown"))),
    }
    for problem, text in hostile.items():
        part.write_text(text)
        with pytest.raises(InvalidSBML, match=rf"`part\.xml`(.|\n)*({problem}|unknown)"):
            read_sbml(main)
    part.write_text(
        plain(DECAY, root='xmlns:multi="http://www.sbml.org/sbml/level3/version1/multi/version1" multi:required="true"')
    )
    with pytest.raises(UnsupportedSBML, match=r"`part\.xml`(.|\n)*package"):
        read_sbml(main)


def test_submodels_that_contain_themselves_are_refused(tmp_path):
    own = definition("a", submodels(submodel("B", "b"))) + definition("b", submodels(submodel("A", "a")))
    with pytest.raises((UnsupportedSBML, InvalidSBML), match="cycle"):
        read_sbml(composed(submodels(submodel("A", "a")), definitions=own))
    main = tmp_path / "main.xml"
    main.write_text(composed(submodels(submodel("A", "outside")), externals=external("outside", "main.xml")))
    with pytest.raises((UnsupportedSBML, InvalidSBML), match="cycle"):
        read_sbml(main)
    other = tmp_path / "other.xml"
    other.write_text(composed(submodels(submodel("A", "outside")), externals=external("outside", "main.xml")))
    main.write_text(composed(submodels(submodel("A", "outside")), externals=external("outside", "other.xml")))
    with pytest.raises((UnsupportedSBML, InvalidSBML), match="cycle"):
        read_sbml(main)


def test_external_definitions_that_refer_to_each_other_are_refused(tmp_path):
    main = tmp_path / "main.xml"
    (tmp_path / "a.xml").write_text(composed(externals=external("x", "b.xml", "x")))
    (tmp_path / "b.xml").write_text(composed(externals=external("x", "a.xml", "x")))
    main.write_text(composed(submodels(submodel("A", "outside")), externals=external("outside", "a.xml", "x")))
    with pytest.raises((UnsupportedSBML, InvalidSBML), match="cycle"):
        read_sbml(main)


def test_submodels_that_double_forty_times_are_refused_at_once():
    levels = [definition("d0", listed("Parameters", parameter("p", "1")))]
    for i in range(1, 28):
        levels.append(definition(f"d{i}", submodels(submodel("A", f"d{i - 1}"), submodel("B", f"d{i - 1}"))))
    begun = clock.perf_counter()
    with pytest.raises(UnsupportedSBML, match="more than 500 submodels"):
        read_sbml(composed(submodels(submodel("A", "d27")), definitions="".join(levels)))
    # A few milliseconds; libsbml alone would build a hundred million submodels.
    assert clock.perf_counter() - begun < 5


def test_a_model_as_large_as_is_allowed_is_read_within_seconds():
    parts = submodels(*(submodel(f"A{i}", "decay") for i in range(400)))
    begun = clock.perf_counter()
    model = read_sbml(composed(parts, definitions=definition("decay", DECAY)))
    assert len(model.states) == 400
    # About 2 s on one core.
    assert clock.perf_counter() - begun < 30


@pytest.mark.parametrize(
    "parts",
    [
        submodels(submodel("A", "nowhere")),
        submodels(submodel("A", "decay"), submodel("A", "decay")),
        submodels(submodel("A", "decay", 'comp:timeConversionFactor="nothing"')),
        submodels("<comp:submodel/>"),
    ],
)
def test_submodels_that_make_no_sense_end_in_one_error(parts):
    with pytest.raises((InvalidSBML, UnsupportedSBML)):
        read_sbml(composed(parts, definitions=definition("decay", DECAY)))
