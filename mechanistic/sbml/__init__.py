"""SBML and Antimony: files read into kinetic models, and models written back."""

from mechanistic.sbml.antimony import read_antimony
from mechanistic.sbml.antimony_writer import write_antimony
from mechanistic.sbml.driven import read_driven
from mechanistic.sbml.reader import read_sbml
from mechanistic.sbml.writer import write_sbml

__all__ = ["read_antimony", "read_driven", "read_sbml", "write_antimony", "write_sbml"]
