"""Models written in Antimony, read through SBML.

Smith et al. (2009), Antimony: a modular model definition language, doi:10.1093/bioinformatics/btp401.
"""

from pathlib import Path

from mechanistic.errors import InvalidSBML
from mechanistic.model import KineticModel
from mechanistic.sbml.document import SIZE_LIMIT
from mechanistic.sbml.reader import read_sbml


def read_antimony(source: str | Path) -> KineticModel:
    """The model of an Antimony file or text.

    Args:
        source: the text of a model, or the path of a file; a string is a path when it is one line that ends in `.ant`
            or `.txt`.

    Raises:
        OSError: when there is no such file.
        InvalidSBML: with antimony's message and line, when the text cannot be read.
        UnsupportedSBML: lists every construct that is not supported, with its id.
    """
    # The library is imported on use: it takes longer to load than the rest of this package.
    import antimony

    title, text = _source_text(source)
    try:
        antimony.clearPreviousLoads()
        if antimony.loadAntimonyString(text) < 0:
            problems = [antimony.getLastError().strip()]
            if isinstance(source, str) and "\n" not in source.strip():
                problems.append("if this is a path, end it in .ant or .txt, or give it as a `pathlib.Path`")
            raise InvalidSBML(f"{title} cannot be read by antimony:", problems)
        sbml = antimony.getSBMLString(antimony.getMainModuleName())
    finally:
        antimony.clearPreviousLoads()
    return read_sbml(sbml)


def _source_text(source: str | Path) -> tuple[str, str]:
    if isinstance(source, str) and not ("\n" not in source and source.strip().endswith((".ant", ".txt"))):
        title, text = "the Antimony text", source
    else:
        path = Path(source)
        title = f"`{path.name}`"
        with path.open("rb") as file:
            data = file.read(SIZE_LIMIT + 1)
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InvalidSBML(f"{title} cannot be read:", [f"it is no text in UTF-8: {error}"]) from None
    if len(text) > SIZE_LIMIT:
        raise InvalidSBML(f"{title} cannot be read:", [f"it is larger than {SIZE_LIMIT // 1_000_000} MB"])
    if not text.strip():
        raise InvalidSBML(f"{title} cannot be read:", ["it is empty"])
    return title, text
