"""The none plugin's keys."""

from typing import Any

from pydantic import Field

from cnm_core.schema.base import ConfigModel


class NoneConfig(ConfigModel):
    """Complete isolation."""

    ipam: dict[str, Any] = Field({}, description="must be left out: there are no addresses")
