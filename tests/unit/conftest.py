"""Hypothesis, without a clock: a slow machine is no failure."""

from hypothesis import settings

settings.register_profile("unit", deadline=None, print_blob=True)
settings.load_profile("unit")
