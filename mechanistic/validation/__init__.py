"""One call that checks an imported model and says in a table what it found."""

from mechanistic.validation.report import Check, Validation, Verdict
from mechanistic.validation.run import validate

__all__ = ["Check", "Validation", "Verdict", "validate"]
