"""When each phase of this call ended, for whoever asks in the end (cnm_core.cni.journal).

A phase costs a quarter of a microsecond, so that nobody has to say beforehand that they
will ask.
"""

from time import monotonic_ns, process_time_ns

# Of the processor, until this module was imported. How long the process had to wait for a
# processor meanwhile, it cannot know.
START = process_time_ns()
ends: list[tuple[str, int]] = [("", monotonic_ns())]


def ended(phase: str) -> None:
    """Note that a phase has ended now."""
    ends.append((phase, monotonic_ns()))
