"""The rules of `docs/architecture.md`, held against the syntax trees of the packages."""

import ast
import graphlib
import json
import subprocess
import sys

import pytest

from tests.syntax import PACKAGES, ROOT, Import, Source, code_lines, declared_order, dotted, imports, sources, walk

CODE = sources(*PACKAGES)
TESTS = sources("tests")
MODULES = {source.module for source in [*CODE, *TESTS]}
INIT_FILES = [source for source in CODE if source.path.name == "__init__.py" and source.path.parent.parent == ROOT]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text("utf-8")

# A repr, a `plot`, a `save` or a `units` method of a type hands itself to these modules when it is called, not when
# imported; type checkers alone see more of them.
SHOWN_ON_USE = {"display.py", "plots.py", "store.py", "units/"}

# A library and the only places that may import it.
ONLY_WITHIN = {
    "antimony": ("mechanistic/sbml/",),
    "libsbml": ("mechanistic/sbml/",),
    "llvmlite": ("mechanistic/native/",),
    "matplotlib": ("mechanistic/plots.py", "neural/plots.py", "hybrid/plots.py", "hybrid/demo/plots.py"),
    "numba": ("mechanistic/native/",),
    "pint": ("mechanistic/units/",),
    "roadrunner": ("mechanistic/reference.py",),
    "tellurium": ("mechanistic/reference.py",),
}

# A library and the places that may not import it.
SYMBOLS = (
    "mechanistic/model.py",
    "mechanistic/units/",
    "mechanistic/conservation.py",
    "mechanistic/display.py",
    "mechanistic/sbml/",
)
NEVER_WITHIN = {
    "sympy": ("mechanistic/solve/", "mechanistic/schedule.py", "neural/"),
    "torch": SYMBOLS,
    "torchdiffeq": (*SYMBOLS, "mechanistic/compile/", "mechanistic/library/"),
    "xarray": (*SYMBOLS, "mechanistic/compile/", "mechanistic/library/", "mechanistic/field.py", "neural/"),
}

# They run text as code, or load files that do.
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "code", "runpy"}
UNSAFE_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "importlib.import_module",
    "import_module",
    "sympy.parse_expr",
    "parse_expr",
    "torch.load",
    "torch.save",
    "torch.jit.load",
    "sympy.lambdify",
    "lambdify",
}

# They change what code outside this project computes.
GLOBAL_STATE = {
    "torch.set_default_dtype",
    "torch.set_default_device",
    "torch.set_default_tensor_type",
    "torch.set_num_threads",
    "torch.set_num_interop_threads",
    "torch.set_float32_matmul_precision",
    "torch.use_deterministic_algorithms",
    "torch.autograd.set_detect_anomaly",
    "np.random.seed",
    "numpy.random.seed",
    "np.seterr",
    "numpy.seterr",
    "random.seed",
    "warnings.simplefilter",
    "logging.basicConfig",
    "matplotlib.use",
}

DRAWS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson"}
SEEDED = {"default_rng", "Generator", "SeedSequence", "BitGenerator"}

CODE_LINES = 500


def _own(source: Source) -> list[Import]:
    return [found for found in imports(source, MODULES) if found.top in PACKAGES]


def _unit(module: str) -> str:
    """The listed file or folder that a dotted module of the project belongs to; empty when there is no such module."""
    return next((source.unit for source in CODE if source.module == module), "")


def _is_under(place: str, places: tuple[str, ...]) -> bool:
    return any(place == each or (each.endswith("/") and place.startswith(each)) for each in places)


def _on_use(found: Import) -> bool:
    return (found.deferred or found.typing_only) and _unit(found.module) in SHOWN_ON_USE


def _forked(ancestors: tuple[ast.AST, ...]) -> bool:
    """Whether the global generator is put back afterwards."""
    return any(isinstance(a, ast.With) and "fork_rng" in ast.dump(a.items[0]) for a in ancestors)


def _report(problems: list[str]) -> None:
    assert not problems, "\n" + "\n".join(problems)


def test_mechanistic_and_neural_do_not_know_each_other_and_nothing_knows_hybrid():
    allowed = {"mechanistic": {"mechanistic"}, "neural": {"neural"}, "hybrid": set(PACKAGES)}
    _report(
        [
            f"{source.place}:{found.line} imports `{found.module}`"
            for source in CODE
            for found in _own(source)
            if found.top not in allowed[source.module.partition(".")[0]]
        ]
    )


def test_every_import_of_the_project_finds_its_module():
    _report([f"{s.place}:{f.line} imports `{f.module}`" for s in CODE for f in _own(s) if f.module not in MODULES])


def test_packages_never_import_the_tests():
    _report([f"{s.place}:{f.line} imports `{f.module}`" for s in CODE for f in imports(s, MODULES) if f.top == "tests"])


@pytest.mark.parametrize("package", PACKAGES)
def test_every_file_has_a_place_in_the_declared_order(package):
    order = declared_order(package, ARCHITECTURE)
    assert order, f"docs/architecture.md lists no files of {package}/"
    assert len(order) == len(set(order)), f"docs/architecture.md lists a file of {package}/ twice"
    present = {s.unit for s in CODE if s.place.startswith(f"{package}/")} - {"__init__.py"}
    unlisted = sorted(present - set(order))
    assert not unlisted, f"docs/architecture.md does not list {', '.join(f'{package}/{unit}' for unit in unlisted)}"
    absent = sorted(set(order) - present)
    assert not absent, f"docs/architecture.md lists what is not there: {', '.join(f'{package}/{u}' for u in absent)}"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_file_imports_only_files_above_it(package):
    # `__init__.py` gathers the package and so stands below everything.
    order = [*declared_order(package, ARCHITECTURE), "__init__.py"]
    rank = {unit: position for position, unit in enumerate(order)}
    problems = []
    for source in (s for s in CODE if s.place.startswith(f"{package}/") and s.unit in rank):
        for found in _own(source):
            if found.top != package or _on_use(found):
                continue
            target = _unit(found.module)
            if target and target != source.unit and rank.get(target, -1) >= rank[source.unit]:
                problems.append(f"{source.place}:{found.line} imports `{found.module}`, which is not above it")
    _report(problems)


def test_no_cycle_of_imports():
    graph = {
        source.module: {found.module for found in _own(source) if found.module != source.module and not _on_use(found)}
        for source in CODE
    }
    tuple(graphlib.TopologicalSorter(graph).static_order())


def test_third_party_fences():
    problems = []
    for source in CODE:
        for found in imports(source, MODULES):
            if found.typing_only:
                continue
            within, never = ONLY_WITHIN.get(found.top), NEVER_WITHIN.get(found.top, ())
            if (within is not None and not _is_under(source.place, within)) or _is_under(source.place, never):
                problems.append(f"{source.place}:{found.line} imports `{found.module}`, which is fenced off from there")
    _report(problems)


def test_heavy_libraries_are_imported_on_use():
    on_use = {"matplotlib", "pint", "roadrunner", "tellurium"}
    _report(
        [
            f"{source.place}:{found.line} imports `{found.module}` at import; import it in the function that needs it"
            for source in CODE
            for found in imports(source, MODULES)
            if found.top in on_use and not found.deferred and not found.typing_only
        ]
    )


@pytest.mark.parametrize("source", INIT_FILES, ids=lambda source: source.module)
def test_public_names_are_listed_and_sorted(source):
    listed: list[str] = []
    imported: list[str] = []
    for node in source.tree.body:
        if isinstance(node, ast.ImportFrom | ast.Import):
            imported += [alias.asname or alias.name for alias in node.names]
        elif isinstance(node, ast.Assign) and dotted(node.targets[0]) == "__all__":
            listed = ast.literal_eval(node.value)
        else:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            assert is_docstring, f"{source.place}:{node.lineno} is neither an import nor `__all__`"
    public = [name for name in imported if not name.startswith("_")]
    assert sorted(listed) == sorted(public)
    assert len(listed) == len(set(listed))
    # The order that the linter keeps: CONSTANTS, then Classes, then functions and modules.
    assert listed == sorted(listed, key=lambda name: (not name.isupper(), not name[0].isupper(), name))


def test_no_text_becomes_code():
    problems = []
    for source in CODE:
        problems += [
            f"{source.place}:{found.line} imports `{found.module}`"
            for found in imports(source, MODULES)
            if found.top in UNSAFE_MODULES
        ]
        problems += [f"{source.place}:{line} calls {what}" for line, what in _unsafe_calls(source.tree)]
    _report(problems)


def test_no_global_state_is_changed_by_the_packages():
    problems = []
    for source in CODE:
        for node, ancestors in walk(source.tree):
            if not isinstance(node, ast.Call):
                continue
            name = dotted(node.func)
            seeds = name in {"torch.manual_seed", "torch.random.manual_seed"} and not _forked(ancestors)
            if name in GLOBAL_STATE or seeds:
                problems.append(f"{source.place}:{node.lineno} calls {name}, which changes the caller's settings")
    _report(problems)


def test_random_numbers_come_from_a_generator_of_the_caller():
    problems = []
    for source in CODE:
        uses_random = any(found.module == "random" for found in imports(source, MODULES))
        for node, ancestors in walk(source.tree):
            if not isinstance(node, ast.Call):
                continue
            owner, _, name = dotted(node.func).rpartition(".")
            given = any(keyword.arg == "generator" for keyword in node.keywords)
            global_torch = owner == "torch" and name in DRAWS and not given and not _forked(ancestors)
            global_numpy = owner in {"np.random", "numpy.random"} and name not in SEEDED
            if global_torch or global_numpy or (owner == "random" and uses_random):
                problems.append(f"{source.place}:{node.lineno} draws with {owner}.{name} from the global generator")
    _report(problems)


def test_no_file_is_too_long_to_read():
    lengths = {source.place: code_lines(source) for source in CODE}
    _report([f"{place} has {count} lines of code" for place, count in lengths.items() if count > CODE_LINES])


_IMPORT_PROBE = """
import json, sys, warnings
import numpy, pandas, sympy, torch, torchdiffeq, xarray
def state():
    return [str(torch.get_default_dtype()), torch.get_num_threads(), str(torch.get_default_device()),
            hash(torch.get_rng_state().numpy().tobytes()), torch.is_grad_enabled(), repr(numpy.geterr()),
            torch.are_deterministic_algorithms_enabled(), repr(warnings.filters)]
before = state()
import PACKAGE
print(json.dumps({"changed": state() != before, "loaded": sorted(m for m in sys.modules if "." not in m)}))
"""


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_loads_no_heavy_library_and_changes_no_setting(package):
    command = [sys.executable, "-c", _IMPORT_PROBE.replace("PACKAGE", package)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    report = json.loads(answer.stdout)
    assert not set(report["loaded"]) & {"matplotlib", "pint", "roadrunner", "tellurium"}
    if package != "hybrid":
        assert "hybrid" not in report["loaded"]
    assert not report["changed"]


def _unsafe_calls(tree: ast.AST) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        last = name.rpartition(".")[2]
        flags = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
        # `module.eval()` of torch takes no argument; `frame.eval("text")` of pandas does.
        evaluates = last == "eval" and bool(node.args or node.keywords)
        parses = last == "sympify" and flags.get("strict") is not True
        if name in UNSAFE_CALLS or evaluates or parses or flags.get("allow_pickle") is True:
            found.append((node.lineno, name))
    return found


@pytest.mark.parametrize(
    "text",
    [
        "eval('1')",
        "exec(text)",
        "compile(text, '', 'exec')",
        "sympify(text)",
        "sympy.sympify(text, strict=False)",
        "numpy.load(path, allow_pickle=True)",
        "torch.load(path)",
        "frame.eval('a + b')",
    ],
)
def test_the_search_for_unsafe_calls_finds_them(text):
    assert _unsafe_calls(ast.parse(text))


@pytest.mark.parametrize(
    "text", ["network.eval()", "torch.compile(network)", "re.compile(text)", "sympy.sympify(value, strict=True)"]
)
def test_the_search_for_unsafe_calls_leaves_safe_ones_alone(text):
    assert not _unsafe_calls(ast.parse(text))
