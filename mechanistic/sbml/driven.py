"""Which parameters of a written mechanism something else drives."""

from pathlib import Path

from mechanistic.sbml.annotation import read_annotation
from mechanistic.sbml.document import Document


def read_driven(source: str | Path) -> dict[str, str]:
    """The parameters that `write_sbml` was told are driven: name to what drives them, in words.

    Args:
        source: path of an SBML file, or its text.

    Raises:
        InvalidSBML: lists everything in the file that the standard forbids, with line numbers.
    """
    document = Document(source)
    model = document.model
    found: dict[str, str] = {}
    for i in range(model.getNumParameters()):
        parameter = model.getParameter(i)
        notes = read_annotation(parameter, "parameter") or {}
        if "driven" in notes:
            found[notes.get("name", parameter.getId())] = notes["driven"]
    return found
