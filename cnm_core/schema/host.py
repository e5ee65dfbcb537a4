"""The host plugin's keys."""

from typing import Any

from pydantic import Field

from cnm_core.schema.base import ConfigModel


class HostConfig(ConfigModel):
    """The host's own network namespace."""

    ipam: dict[str, Any] = Field({}, description="must be left out: the host has its addresses")
