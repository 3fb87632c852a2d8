"""A limit on how long a check may take."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, final


@final
class OutOfTime(Exception):  # noqa: N818 - named after what happened, like the errors of the package
    """A check took longer than it may."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises `OutOfTime` in the code inside once it has run for `seconds`.

    It needs the main thread and a free alarm of the operating system; where there is neither, nothing is limited.
    Compiled code is stopped when it returns to Python. Handler and alarm are put back afterwards.
    """
    alarms = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if not alarms or signal.getitimer(signal.ITIMER_REAL)[0] > 0:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
