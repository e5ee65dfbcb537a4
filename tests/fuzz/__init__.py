"""Hostile input, made by coverage: what the plugins read must end in a result or an error object.

``python -m tests.fuzz --seconds 3600`` (root) tries all targets, one after another.
"""
