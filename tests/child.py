"""A child process with limits, for work that may hang, crash, or ask for too much memory."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, final


class NoAnswer(Exception):  # noqa: N818 - an outcome, which callers tell apart
    """The child process died, or did not answer in time; the message completes `the child process ...`."""


class TimedOut(NoAnswer):
    """The child process did not answer in time."""


@final
class Child:
    """A process that answers requests one by one, and is replaced when it dies or takes too long."""

    def __init__(
        self,
        answer: Callable[[Any], Any],
        seconds: float,
        memory: int,
        prepare: Callable[[], None] | None = None,
        beyond: bool = False,
    ) -> None:
        """Describes the process; it starts with the first request.

        Args:
            answer: a function of a module, from request to answer; both can be pickled.
            seconds: limit of one request.
            memory: bytes of address space.
            prepare: runs once in each new process, before its first request and outside the limit of time.
            beyond: whether `memory` comes on top of what the process has after `prepare`.
        """
        self._arguments = answer, memory, prepare, beyond
        self._seconds = seconds
        self._process: Any = None

    def ask(self, request: Any) -> Any:
        """What `answer` makes of `request`.

        Raises:
            TimedOut: when the time is over.
            NoAnswer: when the process died.
        """
        try:
            self._start()
            self._connection.send(request)
            if self._connection.poll(self._seconds):
                return self._connection.recv()
        except (EOFError, OSError):
            process = self._process
            process.join(1)
            self.stop()
            raise NoAnswer(f"died (exit code {process.exitcode})") from None
        self.stop()
        raise TimedOut(f"gave no answer within {self._seconds:g} s")

    def _start(self) -> None:
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
            self._process.start()
            theirs.close()
            self._connection.recv()

    def stop(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._connection.close()
            self._process.kill()
            self._process.join()
            self._process = None


def _serve(
    connection: Connection,
    answer: Callable[[Any], Any],
    memory: int,
    prepare: Callable[[], None] | None,
    beyond: bool,
) -> None:
    """Answers requests until the connection closes."""
    import resource

    threading.Thread(target=_follow_parent, daemon=True).start()
    if not beyond:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    if prepare is not None:
        prepare()
    if beyond:
        limit = memory + _address_space()
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    connection.send(None)
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        connection.send(answer(request))


def _follow_parent() -> None:
    """Ends this process when the one that started it has ended, even in the middle of a request."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _address_space() -> int:
    """Bytes of address space of this process."""
    import resource

    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
