"""What reading a file brings to light, gathered so that one error lists all of it."""

from typing import final

from mechanistic.errors import InvalidSBML, UnsupportedSBML


@final
class Findings:
    """The problems of one file, in the order in which they were found; each sentence is kept once."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._invalid: dict[str, None] = {}
        self._unsupported: dict[str, None] = {}

    def invalid(self, problem: str) -> None:
        """Notes something that the standard forbids."""
        self._invalid[problem] = None

    def unsupported(self, problem: str) -> None:
        """Notes a construct that this reader does not support."""
        self._unsupported[problem] = None

    def check(self) -> None:
        """Raises what was found.

        Raises:
            InvalidSBML: when anything is invalid; what is not supported stands behind it.
            UnsupportedSBML: when everything is valid and something is not supported.
        """
        if self._invalid:
            beside = (f"{problem} (not supported)" for problem in self._unsupported)
            raise InvalidSBML(f"{self._title} is not valid SBML:", [*self._invalid, *beside])
        if self._unsupported:
            raise UnsupportedSBML(f"{self._title} uses what is not supported:", self._unsupported)
