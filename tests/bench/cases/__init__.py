"""The cases: what is timed, one function each, by what it is about."""

from cases import addresses, command, containers, crowd, firewall, process
from cases.registry import CASES, Case

__all__ = ["CASES", "Case", "addresses", "command", "containers", "crowd", "firewall", "process"]
