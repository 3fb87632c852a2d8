"""How many subjects a kernel advances at once."""

LANES = 8
"""Subjects side by side in a block: one register of AVX-512, two of AVX2, four of NEON."""
