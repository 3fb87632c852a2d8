"""Models made of submodels (package `comp`), made flat by libsbml before anything is read.

Smith et al. (2015), SBML Level 3 package: Hierarchical Model Composition, doi:10.2390/biecoll-jib-2015-268.

libsbml would follow any path or address that a file names. Here the files are read and checked first, from the folder
of the model alone, and libsbml sees copies of them in a folder of its own.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import final

import libsbml

from mechanistic.errors import UnsupportedSBML

NAMESPACE_PART = "/comp/version1"
"""What the namespace of the package contains."""

FILE_LIMIT = 20
"""Most files that a model may be spread over."""

INSTANCE_LIMIT = 500
"""Most submodels of a model once it is flat."""

ELEMENT_LIMIT = 20_000
"""Most elements that all submodels may have together once the model is flat."""

LEVEL_LIMIT = 30
"""Deepest nesting of submodels."""

_MAIN = ".main.xml"
_HEAD = '<?xml version="1.0" encoding="UTF-8"?>'


@final
@dataclass(frozen=True, slots=True)
class Checks:
    """What every file of a hierarchy must pass; both raise.

    Attributes:
        text: the text of a file, without its XML declaration, from what it is called and its bytes.
        tree: finds what the standard forbids in libsbml's document, which is called by its first argument.
        limit: most bytes of all files together.
    """

    text: Callable[[str, bytes], str]
    tree: Callable[[str, libsbml.SBMLDocument], None]
    limit: int


@final
class Hierarchy:
    """The files that a document draws its submodels from."""

    def __init__(self, title: str, text: str, folder: Path | None, checks: Checks) -> None:
        """Reads every file that `text` refers to.

        Args:
            title: what the main file is called in messages.
            text: of the main file.
            folder: where it lies; None for a text.
            checks: for every file.

        Raises:
            UnsupportedSBML: when a file is not a plain file of the folder, or the submodels have no end.
        """
        self._title, self._folder, self._checks, self._room = title, folder, checks, checks.limit
        self._texts = {_MAIN: text}
        self._trees = {_MAIN: libsbml.readSBMLFromString(text)}
        self._gather()
        self._sizes: dict[tuple[str, str], tuple[int, int]] = {}
        self._measure((_MAIN, ""), ())

    def flat(self) -> libsbml.SBMLDocument:
        """The main document without submodels.

        Raises:
            UnsupportedSBML: when libsbml cannot flatten it.
        """
        with TemporaryDirectory(prefix="kinetwin-") as copies:
            for name, text in self._texts.items():
                (Path(copies) / name).write_text(_HEAD + text, encoding="utf-8")
            trees = {name: libsbml.readSBMLFromFile(str(Path(copies) / name)) for name in reversed(self._texts)}
            for name, tree in trees.items():
                package = _package(tree)
                if package is not None:
                    # libsbml would flatten once more to check the result, which is checked later.
                    package.setOverrideCompFlattening(True)
                self._checks.tree(self._title if name == _MAIN else f"`{name}`", tree)
            main = trees[_MAIN]
            properties = libsbml.ConversionProperties()
            properties.addOption("flatten comp", True)
            properties.addOption("performValidation", False)
            properties.addOption("basePath", copies)
            if main.convert(properties) != libsbml.LIBSBML_OPERATION_SUCCESS or main.getModel() is None:
                raise self._refusal(f"libsbml cannot flatten the submodels{_reasons(main, copies)}")
            return main

    def _refusal(self, problem: str) -> UnsupportedSBML:
        return UnsupportedSBML(f"{self._title} uses what is not supported:", [problem])

    def _gather(self) -> None:
        """Reads the files that the main one refers to, and those that they refer to."""
        waiting = [_MAIN]
        while waiting:
            for definition in _external_definitions(self._trees[waiting.pop()]):
                place = f"external model definition `{definition.getId()}`"
                name = self._file_name(definition, place)
                if name not in self._texts:
                    self._texts[name] = self._checks.text(f"`{name}`", self._opened(name, place))
                    self._trees[name] = libsbml.readSBMLFromString(self._texts[name])
                    waiting.append(name)

    def _file_name(self, definition: libsbml.ExternalModelDefinition, place: str) -> str:
        source = definition.getSource()
        name = source.removeprefix("./")
        if name.startswith(".") or not name or any(mark in name for mark in "/\\:%#?\0") or not name.isprintable():
            problem = f"{place}: its source {source!r} is not the name of a file in the folder of the model"
            raise self._refusal(f"{problem}; files elsewhere and addresses are never opened")
        if self._folder is None:
            raise self._refusal(f"{place}: a text has no folder in which `{name}` could be found; read it from a file")
        if len(self._texts) > FILE_LIMIT:
            raise self._refusal(f"the submodels are spread over more than {FILE_LIMIT} files")
        return name

    def _opened(self, name: str, place: str) -> bytes:
        """The bytes of the file `name` of the folder: a plain file, no link to elsewhere, no device."""
        assert self._folder is not None
        path = self._folder / name
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        try:
            if path.is_symlink():
                raise self._refusal(f"{place}: `{name}` is a link; only plain files in the folder are opened")
            with os.fdopen(os.open(path, flags), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise self._refusal(f"{place}: `{name}` is not a plain file")
                data = file.read(self._room + 1)
        except OSError as error:
            raise self._refusal(f"{place}: `{name}` cannot be opened ({error.strerror})") from None
        self._room -= len(data)
        if self._room < 0:
            raise self._refusal("the files that the model refers to are too large")
        return data

    def _measure(self, model: tuple[str, str], above: tuple[tuple[str, str], ...]) -> tuple[int, int]:
        """How many submodels and elements a model has when flat; definitions that contain themselves are refused."""
        if model in above:
            names = " -> ".join(_shown(*each) for each in (*above[above.index(model) :], model))
            raise self._refusal(f"submodels contain each other in a cycle: {names}")
        if len(above) > LEVEL_LIMIT:
            raise self._refusal(f"submodels are nested deeper than {LEVEL_LIMIT} levels")
        if model not in self._sizes:
            instances, elements = 1, 0
            found, parts = self._parts(model)
            elements += 0 if found is None else _elements(found)
            for part in parts:
                more = self._measure(part, (*above, model))
                instances, elements = instances + more[0], elements + more[1]
            if instances > INSTANCE_LIMIT or elements > ELEMENT_LIMIT:
                problem = f"more than {INSTANCE_LIMIT} submodels or {ELEMENT_LIMIT} elements"
                raise self._refusal(f"the model has {problem} when its submodels are written out")
            self._sizes[model] = instances, elements
        return self._sizes[model]

    def _parts(self, model: tuple[str, str]) -> tuple[libsbml.Model | None, list[tuple[str, str]]]:
        """A model by file and id (the main one when it is empty), and what it is made of; None for a reference."""
        name, identity = model
        tree = self._trees[name]
        package = _package(tree)
        definition = None if package is None else package.getExternalModelDefinition(identity)
        if identity and definition is not None:
            return None, [(definition.getSource().removeprefix("./"), definition.getModelRef())]
        found = tree.getModel()
        if identity and (found is None or found.getId() != identity):
            found = None if package is None else package.getModelDefinition(identity)
        if found is None:
            raise self._refusal(f"there is no model {_shown(name, identity)} for a submodel")
        inner = found.getPlugin("comp")
        count = 0 if inner is None else inner.getNumSubmodels()
        return found, [(name, inner.getSubmodel(i).getModelRef()) for i in range(count)]


def _package(tree: libsbml.SBMLDocument) -> libsbml.CompSBMLDocumentPlugin | None:
    return tree.getPlugin("comp")


def _external_definitions(tree: libsbml.SBMLDocument) -> list[libsbml.ExternalModelDefinition]:
    package = _package(tree)
    if package is None:
        return []
    return [package.getExternalModelDefinition(i) for i in range(package.getNumExternalModelDefinitions())]


def _elements(model: libsbml.Model) -> int:
    return int(model.getListOfAllElements().getSize())


def _shown(file: str, identity: str) -> str:
    place = "" if file == _MAIN else f" of `{file}`"
    return f"`{identity}`{place}" if identity else f"the main model{place}"


def _reasons(tree: libsbml.SBMLDocument, folder: str) -> str:
    log = tree.getErrorLog()
    errors = (log.getError(i) for i in range(log.getNumErrors()))
    severe = (libsbml.LIBSBML_SEV_ERROR, libsbml.LIBSBML_SEV_FATAL)
    messages = dict.fromkeys(" ".join(e.getMessage().split()) for e in errors if e.getSeverity() in severe)
    return "".join(f"; {message.replace(folder, '.')}" for message in list(messages)[:3])
