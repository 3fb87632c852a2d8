"""The bounded child process: it answers, is replaced when it dies or hangs, and has no more memory than it is given."""

import os
import subprocess
import sys
import time

import pytest

from tests.child import Child, NoAnswer, TimedOut
from tests.shared import ROOT

MEMORY = 2**31


def obey(request: str) -> object:
    """Does what it is told, in the child process."""
    if request == "die":
        os._exit(3)
    if request == "hang":
        time.sleep(60)
    if request == "grow":
        try:
            return len(bytearray(2 * MEMORY))
        except MemoryError:
            return "no memory"
    return os.getpid()


@pytest.fixture
def child():
    child = Child(obey, seconds=20, memory=MEMORY)
    yield child
    child.stop()


def test_one_process_answers_until_it_dies(child):
    first = child.ask("id")
    assert child.ask("id") == first != os.getpid()
    with pytest.raises(NoAnswer, match="exit code 3"):
        child.ask("die")
    assert child.ask("id") != first


def test_a_request_that_takes_too_long_ends_the_process():
    child = Child(obey, seconds=1, memory=MEMORY)
    with pytest.raises(TimedOut, match="within 1 s"):
        child.ask("hang")
    child.stop()


def test_memory_is_bounded(child):
    assert child.ask("grow") == "no memory"


def test_the_process_ends_with_the_one_that_started_it():
    code = (
        "import os\nfrom tests.child import Child\nfrom tests.test_child import obey\n"
        "if __name__ == '__main__':\n"
        f"    print(Child(obey, 20, {MEMORY}).ask('id'), flush=True)\n    os._exit(0)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    process = int(answer.stdout)
    for _ in range(200):
        if not os.path.exists(f"/proc/{process}"):
            return
        time.sleep(0.05)
    pytest.fail(f"the process {process} is still there")
