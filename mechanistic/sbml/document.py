"""Opening an SBML file safely: bounded in size and depth, without entities, checked against the standard."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import final
from xml.parsers import expat

import libsbml

from mechanistic.errors import InvalidSBML, UnsupportedSBML
from mechanistic.sbml.dependencies import PAIR_LIMIT, RATE_PAIR_LIMIT, too_dependent
from mechanistic.sbml.hierarchy import NAMESPACE_PART, Checks, Hierarchy

SIZE_LIMIT = 50_000_000
"""Largest file that is read, in bytes."""

DEPTH_LIMIT = 400
"""Deepest nesting of elements; libsbml walks trees recursively and would overrun its stack on hostile ones."""

COUNT_LIMITS = {"species": 10_000, "parameter": 10_000, "compartment": 10_000, "reaction": 10_000, "event": 1_000}
"""Most elements of a kind; symbolic work on more takes minutes."""

BREADTH_LIMIT = 20_000_000
"""Largest sum, over all elements of mathematics, of the squared number of parts; libsbml's checks take such a time."""

TOKEN_LIMIT = 200_000
"""Most characters of the attributes of one element, and of one comment; libsbml reads longer ones again and again."""

FORMULA_LIMIT = 20_000
"""Longest text formula of a Level 1 file, in characters; it bounds the depth of the tree that libsbml builds."""

SUPPORTED_PACKAGES = ("/l3v2extendedmath/", NAMESPACE_PART)
"""Packages that only add functions which Level 3 Version 2 has anyway, and submodels, which are made flat."""

HARMLESS_ERRORS = (10313,)
"""libsbml's errors that do not touch the mathematics: names of units that are not defined; units are text here."""

# libsbml puts a line of its own before a text without a declaration; with one, its line numbers are those of the file.
_PLAIN_DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>'
ENCODINGS = re.compile(r"utf-?8|us-ascii|utf-?16(-?[lb]e)?|iso-8859-\d+|windows-125\d", re.IGNORECASE)
"""Encodings that a file may declare; Python knows others, which are no encodings of text or take quadratic time."""

_PACKED = {b"PK\x03\x04": "a zip archive (perhaps a COMBINE archive)", b"\x1f\x8b": "packed with gzip"}
_MATHEMATICS = "http://www.w3.org/1998/Math/MathML "
_PREFIXED = re.compile(r"<[^\s<>!?/:]+:sbml[\s>]")
_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")
_UNCHECKED = (
    libsbml.LIBSBML_CAT_UNITS_CONSISTENCY,
    libsbml.LIBSBML_CAT_MODELING_PRACTICE,
    libsbml.LIBSBML_CAT_SBO_CONSISTENCY,
)


@final
class Document:
    """An SBML document that libsbml has read and found valid.

    Attributes:
        title: what the source is called in messages.
        text: the text of the file, without its XML declaration.
        tree: libsbml's document; owns every object reached from `model`.
        model: libsbml's model.
        required_packages: namespaces of packages that change the meaning of the model and are not supported.
    """

    def __init__(self, source: str | Path) -> None:
        self.title, text, self.required_packages = _checked_text(source)
        self.text = _DECLARATION.sub("", text, count=1)
        self._flat: libsbml.SBMLDocument | None = None
        self.tree = libsbml.readSBMLFromString(_PLAIN_DECLARATION + self.text)
        _refuse_errors(self.title, self.tree)
        if self.tree.getLevel() == 1:
            self._raise_level()
        if not self.required_packages and self.tree.getPlugin("comp") is not None:
            if _PREFIXED.search(self.text):
                # libsbml crashes when it makes such a model flat.
                problem = "submodels in a file whose elements have a prefix; make SBML its default namespace"
                raise UnsupportedSBML(f"{self.title} uses what is not supported:", [problem])
            folder = None if _is_text(source) else Path(source).parent
            checks = Checks(_text_of_part, _refuse_invalid, SIZE_LIMIT)
            self.tree = self._flat = Hierarchy(self.title, self.text, folder, checks).flat()
        self.model = self.tree.getModel()
        if self.model is None:
            raise InvalidSBML(f"{self.title} cannot be read:", ["the file holds no model"])
        try:
            _refuse_invalid(self.title, self.tree)
        except InvalidSBML:
            if self.required_packages:
                # What seems wrong may have its meaning in the package.
                packages = [f"package {namespace}" for namespace in self.required_packages]
                raise UnsupportedSBML(f"{self.title} uses what is not supported:", packages) from None
            raise

    @property
    def flat_text(self) -> str:
        """The text of the file; of a model made of submodels, that of the flat model."""
        return self.text if self._flat is None else libsbml.writeSBMLToString(self._flat)

    def _raise_level(self) -> None:
        """Level 1 is read through libsbml's own conversion, which keeps the meaning."""
        converted = self.tree.setLevelAndVersion(2, 4, False)
        if not converted:
            _refuse_errors(self.title, self.tree)
            raise InvalidSBML(f"{self.title} cannot be read:", ["libsbml cannot convert it from Level 1 to Level 2"])


def _refuse_invalid(title: str, tree: libsbml.SBMLDocument) -> None:
    """Raises what the standard forbids in any model of a document."""
    package = tree.getPlugin("comp")
    definitions = (
        [] if package is None else [package.getModelDefinition(i) for i in range(package.getNumModelDefinitions())]
    )
    for model in (tree.getModel(), *definitions):
        if model is not None and too_dependent(model):
            limits = f"{PAIR_LIMIT} pairs of quantities ({RATE_PAIR_LIMIT} where rates ask for rates)"
            problem = f"rules, assignments or functions depend on each other through more than {limits}"
            raise UnsupportedSBML(f"{title} uses what is not supported:", [problem])
    for category in _UNCHECKED:
        tree.setConsistencyChecks(category, False)
    tree.checkConsistency()
    _refuse_errors(title, tree)


def _refuse_errors(title: str, tree: libsbml.SBMLDocument) -> None:
    log = tree.getErrorLog()
    errors = (log.getError(i) for i in range(log.getNumErrors()))
    severe = (libsbml.LIBSBML_SEV_ERROR, libsbml.LIBSBML_SEV_FATAL)
    serious = [e for e in errors if e.getSeverity() in severe and e.getErrorId() not in HARMLESS_ERRORS]
    if serious:
        raise InvalidSBML(f"{title} is not valid SBML:", dict.fromkeys(_sentence(error) for error in serious))


def _text_of_part(title: str, data: bytes) -> str:
    """The text of a file that a model draws submodels from."""
    text = _decoded(title, data)
    scan = _Scan(title)
    scan.run(text)
    if scan.required_packages:
        raise UnsupportedSBML(f"{title} uses what is not supported:", [f"package {p}" for p in scan.required_packages])
    text = _DECLARATION.sub("", text, count=1)
    _refuse_errors(title, libsbml.readSBMLFromString(_PLAIN_DECLARATION + text))
    return text


def _checked_text(source: str | Path) -> tuple[str, str, tuple[str, ...]]:
    """What the source is called, its text, and the packages that it needs and that are not supported.

    Raises:
        InvalidSBML: when the text is too large, nested too deeply, not well-formed, or not SBML.
    """
    title, text = _source_text(source)
    scan = _Scan(title)
    scan.run(text)
    return title, text, tuple(scan.required_packages)


def _sentence(error: libsbml.SBMLError) -> str:
    parts = [" ".join(part.split()) for part in error.getMessage().split("\n") if part.strip()]
    # libsbml quotes the rule of the standard, then where it stands, and last what is wrong here.
    after = next((i + 1 for i, part in enumerate(parts) if part.startswith("Reference:")), 0)
    return f"line {error.getLine()}: {' '.join(parts[after:] or parts)} (libsbml {error.getErrorId()})"


def _is_text(source: str | Path) -> bool:
    return isinstance(source, str) and source.lstrip("\ufeff \t\r\n").startswith("<")


def _source_text(source: str | Path) -> tuple[str, str]:
    """What the source is called, and its text."""
    if isinstance(source, str) and _is_text(source):
        title, text = "the SBML text", source.lstrip("\ufeff")
        _refuse_large(title, len(text))
        return title, text
    path = Path(source)
    title = f"`{path.name}`"
    with path.open("rb") as file:
        data = file.read(SIZE_LIMIT + 1)
    _refuse_large(title, len(data))
    return title, _decoded(title, data)


def _refuse_large(title: str, size: int) -> None:
    if size > SIZE_LIMIT:
        raise InvalidSBML(f"{title} cannot be read:", [f"it is larger than {SIZE_LIMIT // 1_000_000} MB"])


def _decoded(title: str, data: bytes) -> str:
    """The text of an XML file in the encoding that it declares (UTF-8 unless it says otherwise)."""
    for start, kind in _PACKED.items():
        if data.startswith(start):
            raise InvalidSBML(f"{title} cannot be read:", [f"it is {kind}; unpack it, and read the SBML file in it"])
    encoding = "utf-8-sig"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    else:
        declared = re.match(rb"\s*<\?xml[^>]*encoding\s*=\s*[\"']([A-Za-z0-9._-]+)[\"']", data)
        if declared and declared[1].lower() not in (b"utf-8", b"utf8"):
            encoding = declared[1].decode("ascii")
    if encoding != "utf-8-sig" and not ENCODINGS.fullmatch(encoding):
        raise InvalidSBML(
            f"{title} cannot be read:", [f"its encoding {encoding!r} is not supported; write it as UTF-8"]
        )
    try:
        return data.decode(encoding)
    except (UnicodeError, LookupError) as error:
        shown = "UTF-8" if encoding == "utf-8-sig" else encoding
        raise InvalidSBML(f"{title} cannot be read:", [f"it is no text in {shown}: {error}"]) from None


@final
class _Scan:
    """A cheap first pass over the elements, before libsbml builds anything."""

    def __init__(self, title: str) -> None:
        self.required_packages: list[str] = []
        self._title = title
        self._parts: list[int] = []
        self._counts = dict.fromkeys(COUNT_LIMITS, 0)
        self._breadth = 0
        self._parser = expat.ParserCreate(encoding="utf-8", namespace_separator=" ")
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._parser.CommentHandler = self._token
        self._parser.ProcessingInstructionHandler = self._token

    def run(self, text: str) -> None:
        start = text.lstrip("\ufeff \t\r\n")[:1]
        if start != "<":
            problem = "it is not XML, as SBML is; `read_antimony` reads Antimony" if start else "it is empty"
            raise InvalidSBML(f"{self._title} cannot be read:", [problem])
        try:
            self._parser.Parse(text.encode("utf-8", errors="surrogatepass"), True)
        except expat.ExpatError as error:
            problem = f"line {error.lineno}: {expat.ErrorString(error.code)}"
            raise InvalidSBML(f"{self._title} is not well-formed XML:", [problem]) from None

    def _refuse(self, problem: str) -> None:
        line = self._parser.CurrentLineNumber
        raise InvalidSBML(f"{self._title} cannot be read:", [f"line {line}: {problem}"])

    def _start(self, name: str, attributes: Mapping[str, str]) -> None:
        if not self._parts:
            if name.rpartition(" ")[2] != "sbml":
                self._refuse(f"the root element is <{name.rpartition(' ')[2]}>, not <sbml>")
            self._packages(attributes)
        else:
            self._parts[-1] += 1
            if name.startswith(_MATHEMATICS):
                self._refuse_breadth(self._parts[-1] ** 2)
        self._parts.append(0)
        self._count(name.rpartition(" ")[2])
        if len(self._parts) > DEPTH_LIMIT:
            self._refuse(f"elements are nested deeper than {DEPTH_LIMIT} levels")
        self._token(*attributes, *attributes.values())
        if len(attributes.get("formula", "")) > FORMULA_LIMIT:
            self._refuse(f"a formula is longer than {FORMULA_LIMIT} characters")

    def _end(self, name: str) -> None:
        parts = self._parts.pop()
        if name.startswith(_MATHEMATICS):
            self._breadth += parts**2
            self._refuse_breadth(self._breadth)

    def _refuse_breadth(self, breadth: int) -> None:
        if breadth > BREADTH_LIMIT:
            self._refuse("the mathematics has elements with too many parts; write them as several")

    def _count(self, name: str) -> None:
        if name in self._counts:
            self._counts[name] += 1
            if self._counts[name] > COUNT_LIMITS[name]:
                self._refuse(f"the file holds more than {COUNT_LIMITS[name]} elements <{name}>")

    def _token(self, *texts: str) -> None:
        if sum(map(len, texts)) > TOKEN_LIMIT:
            self._refuse(f"an element's attributes or a comment are longer than {TOKEN_LIMIT} characters")

    def _packages(self, attributes: Mapping[str, str]) -> None:
        for key, value in attributes.items():
            namespace, _, attribute = key.rpartition(" ")
            supported = any(package in namespace for package in SUPPORTED_PACKAGES)
            if namespace and attribute == "required" and value.strip() in ("true", "1") and not supported:
                self.required_packages.append(namespace)

    def _doctype(self, name: str, *_: object) -> None:
        if name.lower() == "html":
            self._refuse("it is a web page (HTML), not SBML")
        self._refuse("a document type declaration is not allowed in SBML and is refused")
