"""What configurations may contain: the one place where it is written.

Pydantic models, for everything that has time: validation with every problem at once,
JSON Schema, documentation. The decoders that plugin processes use are generated
from them into cnm_core.config (`make decoders`).
"""
