"""Docker's Container Network Model as a library, and the CNI protocol over it."""

__version__ = "0.1.0"
