"""Published models, each with its source, units and what is known about its solution."""

from mechanistic.library import closed_form
from mechanistic.library.benchmarks import hires, robertson
from mechanistic.library.infection import baccam_influenza, perelson_hiv
from mechanistic.library.oncology import claret_tumour, simeoni_tumour
from mechanistic.library.organoids import organoid_gompertz, organoid_logistic
from mechanistic.library.oscillators import krishna_nfkb, lotka_volterra, p53_mdm2, repressilator, van_der_pol
from mechanistic.library.pharmacodynamics import friberg_neutropenia, turnover_stimulated_loss, warfarin_pkpd
from mechanistic.library.pharmacokinetics import (
    michaelis_menten_elimination,
    one_compartment_iv,
    one_compartment_oral,
    transit_absorption,
    two_compartment_iv,
    two_compartment_oral,
)
from mechanistic.library.physiology import bergman_glucose
from mechanistic.library.signalling import boehm_stat5, huang_ferrell_mapk, kholodenko_mapk

__all__ = [
    "baccam_influenza",
    "bergman_glucose",
    "boehm_stat5",
    "claret_tumour",
    "closed_form",
    "friberg_neutropenia",
    "hires",
    "huang_ferrell_mapk",
    "kholodenko_mapk",
    "krishna_nfkb",
    "lotka_volterra",
    "michaelis_menten_elimination",
    "one_compartment_iv",
    "one_compartment_oral",
    "organoid_gompertz",
    "organoid_logistic",
    "p53_mdm2",
    "perelson_hiv",
    "repressilator",
    "robertson",
    "simeoni_tumour",
    "transit_absorption",
    "turnover_stimulated_loss",
    "two_compartment_iv",
    "two_compartment_oral",
    "van_der_pol",
    "warfarin_pkpd",
]
