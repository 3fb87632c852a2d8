"""The exceptions of `mechanistic`, each of which lists every problem it found at once."""

from collections.abc import Iterable


class KinetwinError(Exception):
    """Base of every error that this project raises on purpose."""


class ListedError(KinetwinError, ValueError):
    """An error made of several problems, shown one a line.

    Attributes:
        problems: the sentences, in the order in which they were found.
    """

    def __init__(self, headline: str, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join([headline, *(f"  - {problem}" for problem in self.problems)]))


class ModelError(ListedError):
    """A kinetic model that contradicts itself (unknown symbols, two meanings for one name, ...)."""


class UnsupportedSBML(ListedError):
    """A valid SBML model that uses what this reader does not support; lists every construct with its id."""


class InvalidSBML(ListedError):
    """An SBML file that cannot be read, or that the standard forbids."""


class DownloadError(ListedError):
    """A model that could not be fetched from a repository: unknown, out of reach, too large, or not SBML."""


class ScheduleError(ListedError):
    """Doses that cannot be given: unknown state, negative duration, a time before the start."""


class SolveError(ListedError):
    """A simulation that did not reach the end for some subjects; says where, when and why."""


class StreamError(ListedError):
    """Results that cannot be written where they should be, or a file that does not belong to this simulation."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A `did you mean` clause for an unknown `name`, or an empty string."""
    from difflib import get_close_matches

    matches = get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f" (did you mean {', '.join(f'`{match}`' for match in matches)}?)" if matches else ""
