"""The file that says which networks `cnm network create` chooses subnets from."""

from pydantic import Field, ValidationInfo, field_validator, model_validator

from cnm_core.inet import parse_subnet
from cnm_core.schema.base import ConfigModel, Subnet, Uint8


class PoolConfig(ConfigModel):
    """A network that is cut into subnets of one size."""

    base: Subnet = Field(description="the network in CIDR notation")
    size: Uint8 = Field(description="prefix length of each subnet")

    @model_validator(mode="after")
    def _size_fits(self) -> "PoolConfig":
        base = parse_subnet(str(self.base))  # a record by now
        longest = len(base.ip) * 8 - 2
        if not base.prefix <= self.size <= longest:
            raise ValueError(f"size: must be from {base.prefix} to {longest}, got {self.size}")
        return self


class PoolsConfig(ConfigModel):
    """Pools for networks that are created without a subnet; the first one with room is taken.

    What is left out keeps its default: for IPv4 the pools that Docker has, for IPv6 a /48 of
    this host's own (RFC 4193), cut into /64.
    """

    ipv4: list[PoolConfig] = Field([], description="pools of IPv4")
    ipv6: list[PoolConfig] = Field([], description="pools of IPv6")

    @field_validator("ipv4", "ipv6")
    @classmethod
    def _of_its_version(cls, pools: list[PoolConfig], info: ValidationInfo) -> list[PoolConfig]:
        for pool in pools:
            if (":" in str(pool.base)) != (info.field_name == "ipv6"):
                raise ValueError(f"must have pools of that version only, got {pool.base}")
        return pools
