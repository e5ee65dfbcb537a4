"""Decoders of configurations for plugin processes.

`values` and `formats` are written by hand; the other modules are generated from
cnm_core.schema by `make decoders` and hold the same checks with the same messages.
"""
