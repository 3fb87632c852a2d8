"""Our own namespace: what a model holds and SBML has no place for, kept beside the elements that it belongs to."""

import json
from collections.abc import Mapping
from xml.sax.saxutils import quoteattr

import libsbml

NAMESPACE = "urn:kinetwin:model:1"
PREFIX = "kinetwin"


def write_annotation(element: libsbml.SBase, kind: str, values: Mapping[str, str]) -> None:
    """Attaches one `kinetwin:kind` with `values` as attributes; any text is allowed."""
    attributes = "".join(f" {key}={quoteattr(escaped(text))}" for key, text in values.items())
    element.appendAnnotation(f'<{PREFIX}:{kind} xmlns:{PREFIX}="{NAMESPACE}"{attributes}/>')


def read_annotation(element: libsbml.SBase, kind: str) -> dict[str, str] | None:
    """The values of the `kind` that `write_annotation` attached, or None."""
    annotation = element.getAnnotation()
    if annotation is None:
        return None
    for i in range(annotation.getNumChildren()):
        child = annotation.getChild(i)
        if child.getURI() == NAMESPACE and child.getName() == kind:
            count = child.getAttributesLength()
            return {child.getAttrName(j): _unescaped(child.getAttrValue(j)) for j in range(count)}
    return None


def escaped(text: str) -> str:
    """Any text as one line: XML has no control characters and folds line breaks; the escapes of JSON survive both."""
    return json.dumps(text, ensure_ascii=not text.isprintable())[1:-1]


def _unescaped(text: str) -> str:
    try:
        return str(json.loads(f'"{text}"', strict=False))
    except ValueError:
        return text
