"""What the syntax trees of the packages say about themselves, for the tests of the architecture."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("mechanistic", "neural", "hybrid")

_LISTED = re.compile(r"\w+(\.py|/)")


@final
@dataclass(frozen=True, slots=True)
class Import:
    """One import statement's target.

    Attributes:
        module: the dotted name that is imported; `a.b` for `from a import b` when `b` is a module of this project.
        line: where it stands.
        deferred: whether it runs only when a function is called.
        typing_only: whether it stands under `if TYPE_CHECKING:`.
    """

    module: str
    line: int
    deferred: bool
    typing_only: bool

    @property
    def top(self) -> str:
        """The first part of the dotted name."""
        return self.module.partition(".")[0]


@final
@dataclass(frozen=True, slots=True)
class Source:
    """A Python file of the project, parsed."""

    path: Path
    module: str
    tree: ast.Module

    @property
    def place(self) -> str:
        """The path in the repository, with forward slashes."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def unit(self) -> str:
        """What the architecture lists in a package: a file (`field.py`) or a folder (`solve/`)."""
        parts = self.path.relative_to(ROOT).parts[1:]
        return parts[0] if len(parts) == 1 else f"{parts[0]}/"


def sources(*folders: str) -> list[Source]:
    """Every Python file under the folders."""
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return [Source(path, _module_name(path), ast.parse(path.read_text("utf-8"), str(path))) for path in paths]


def declared_order(package: str, text: str) -> list[str]:
    """The files and folders of a package in the order in which `text`, the architecture page, lists them."""
    for block in re.findall(r"```\n(.*?)```", text, re.DOTALL):
        order: list[str] = []
        current = ""
        for line in block.splitlines():
            if line[:1].strip():
                current = line.partition("/")[0]
            elif current == package:
                for token in line.split():
                    if not _LISTED.fullmatch(token):
                        break
                    order.append(token)
        if order:
            return order
    return []


def imports(source: Source, modules: set[str]) -> Iterator[Import]:
    """The imports of a file; `modules` are the project's own dotted names."""
    for node, ancestors in walk(source.tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        deferred = any(isinstance(a, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) for a in ancestors)
        typing_only = any(isinstance(a, ast.If) and _mentions(a.test, "TYPE_CHECKING") for a in ancestors)
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            base = _absolute(node, source)
            names = [f"{base}.{a.name}" if f"{base}.{a.name}" in modules else base for a in node.names]
        for name in dict.fromkeys(names):
            yield Import(name, node.lineno, deferred, typing_only)


def walk(tree: ast.AST) -> Iterator[tuple[ast.AST, tuple[ast.AST, ...]]]:
    """Every node with its ancestors, outermost first."""
    stack: list[tuple[ast.AST, tuple[ast.AST, ...]]] = [(tree, ())]
    while stack:
        node, ancestors = stack.pop()
        yield node, ancestors
        stack.extend((child, (*ancestors, node)) for child in ast.iter_child_nodes(node))


def dotted(node: ast.AST) -> str:
    """`a.b.c` for a chain of attributes on a name, `.c` where the chain starts at something else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def code_lines(source: Source) -> int:
    """Lines that hold code: neither blank, nor comment, nor docstring."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    text = source.path.read_text("utf-8")
    lines = {
        number
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in skipped
        for number in range(token.start[0], token.end[0] + 1)
    }
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(source.tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            docstring = node.body[0]
            lines -= set(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    return len(lines)


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _absolute(node: ast.ImportFrom, source: Source) -> str:
    if not node.level:
        return node.module or ""
    parts = source.module.split(".")
    package = parts if source.path.name == "__init__.py" else parts[:-1]
    kept = package[: len(package) - node.level + 1]
    return ".".join([*kept, *([node.module] if node.module else [])])


def _mentions(node: ast.AST, name: str) -> bool:
    return any(dotted(child).rpartition(".")[2] == name for child in ast.walk(node))
