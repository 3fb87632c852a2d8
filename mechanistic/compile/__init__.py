"""Models compiled to tensors: tapes, rate families, the rate field."""

from mechanistic.compile.rate_field import RateField

__all__ = ["RateField"]
