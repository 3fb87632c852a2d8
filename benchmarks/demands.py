"""Rows that are held against a demand: time to a first result, and the memory of a million patients."""

import os
import shutil
import subprocess
import sys

from benchmarks.models import CASES
from benchmarks.populations import task
from benchmarks.rows import Row
from benchmarks.solving import ROOT, THREADS, Plan, Result

FIRST, CACHED = 2.0, 0.3
"""Seconds that a first result may take: of a model never seen, and of one whose code is on disk."""

MEMORY = 2 * 1024**3
"""Bytes that a million patients may need."""

_FIRST = """
import time
import mechanistic as mech
mech.simulate(mech.library.two_compartment_oral(), [0.0, 1.0])
began = time.process_time()
model = mech.read_sbml(__MODEL__)
mech.simulate(model, [0.0, 60.0, 240.0]).check()
print(time.process_time() - began)
"""

_MILLION = """
import resource
import numpy as np
import torch
import mechanistic as mech
model = mech.library.two_compartment_oral()
nominal = mech.RateField(model).nominal()
def parameters(rows):
    draws = [np.random.default_rng([0, i]).standard_normal(len(nominal)) for i in range(rows.start, rows.stop)]
    return nominal * torch.as_tensor(0.3 * np.array(draws)).exp()
doses = mech.Schedule.repeat("gut", amount=100.0, every=24.0, count=7)
found = mech.simulate_to(__PLACE__, model, np.linspace(0.0, 168.0, 100), parameters, doses, count=__COUNT__,
                         observables=False, dtype="float32", solver=mech.Tsit5(), progress=False)
assert found.check().finished
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def first_result(row: Row, plan: Plan) -> Result:
    """CPU seconds from the file of a model to its first course, code of other models being warm, imports apart."""
    folder = plan.out / "tasks" / row.name
    task(CASES[row.case], 1, folder)
    code = folder / "code"
    shutil.rmtree(code, ignore_errors=True)
    script = _FIRST.replace("__MODEL__", repr(str(folder / "model.xml")))
    for _ in range(2 if row.name.endswith("_cached") else 1):
        seconds = _number(script, plan.limit, {"KINETWIN_CACHE": str(code)})
    if isinstance(seconds, str):
        return Result(row, problem=seconds)
    limit = CACHED if row.name.endswith("_cached") else FIRST
    return Result(row, limit / seconds, None, f"{seconds:.2f} s of {limit:g} s allowed")


def million(row: Row, plan: Plan) -> Result:
    """Bytes at the peak while a million patients are written; fewer patients where the plan is a quick one."""
    place = plan.out / "tasks" / row.name / "patients.zarr"
    shutil.rmtree(place, ignore_errors=True)
    count = 1_000_000 if plan.patients >= 10_000 else 20_000
    script = _MILLION.replace("__PLACE__", repr(str(place))).replace("__COUNT__", str(count))
    peak = _number(script, 10 * plan.limit, {})
    shutil.rmtree(place, ignore_errors=True)
    if isinstance(peak, str):
        return Result(row, problem=peak)
    return Result(row, MEMORY / peak, None, f"{peak / 1024**3:.2f} GiB of 2 GiB allowed, {count} patients")


def _number(script: str, limit: float, extra: dict[str, str]) -> float | str:
    """What a process of one thread prints, or in a sentence why it prints no number."""
    environment = os.environ | dict.fromkeys(THREADS, "1") | extra
    try:
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True,
            timeout=limit, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"no result within {limit:g} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return float(done.stdout.split()[-1])
