"""Simulations of any number of subjects, written to disk as they are solved."""

from mechanistic.streaming.stream import Streamed, simulate_to

__all__ = ["Streamed", "simulate_to"]
