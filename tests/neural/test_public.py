import ast
import inspect
import subprocess
import sys
from pathlib import Path

import neural

FOLDER = Path(neural.__file__).parent
ORDER = (
    *("errors", "scaling", "networks", "distributions", "series", "encoders", "latent_field", "integrators"),
    *("latent_ode", "training", "__init__"),
)


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    return names | {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}


def test_all_is_sorted_complete_and_documented():
    public = {name for name, value in vars(neural).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert set(neural.__all__) == public
    # The order that the linter keeps: names in capitals, classes, functions.
    assert neural.__all__ == sorted(neural.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name))
    assert all(inspect.getdoc(getattr(neural, name)) for name in neural.__all__)


def test_a_file_imports_only_files_above_it_and_no_other_room():
    assert {path.stem for path in FOLDER.glob("*.py")} == set(ORDER)
    for position, stem in enumerate(ORDER):
        names = imported(FOLDER / f"{stem}.py")
        assert {n.removeprefix("neural.") for n in names if n.startswith("neural")} <= set(ORDER[:position])
        foreign = {n.split(".")[0] for n in names} - {"neural"} - set(sys.stdlib_module_names)
        assert foreign <= {"torch", "torchdiffeq", "tqdm"}


def test_importing_changes_no_setting():
    code = (
        "import torch; before = (torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads())\n"
        "import neural; after = (torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads())\n"
        "assert torch.equal(before[0], after[0]) and before[1:] == after[1:]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=FOLDER.parent)
