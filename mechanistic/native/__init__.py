"""Whole solves in compiled code: kernels of a model, the loop that drives them, and the way back."""

from mechanistic.native.engine import Native

__all__ = ["Native"]
