"""What `cnm network create` was asked for."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from cnm_core.cli import options
from cnm_core.schema.plugins import PLUGINS

HOST_LOCAL, STATIC, DHCP, NONE = "host-local", "static", "dhcp", "none"
# Of these drivers a host has one network, which has no addresses of its own.
SINGLE = ("host", "none")
_ANY_IPV4, _ANY_IPV6 = "0.0.0.0/0", "::/0"


@dataclass(frozen=True)
class Wanted:
    """What was asked for on the command line."""

    name: str
    driver: str
    subnets: tuple[str, ...]
    ip_ranges: tuple[str, ...]
    gateways: tuple[str, ...]
    aux_addresses: dict[str, str]
    ipv4: bool
    ipv6: bool
    internal: bool
    ipam_driver: str
    ipam_options: dict[str, str]
    options: dict[str, str]
    labels: dict[str, str]
    is_remote: bool

    @property
    def id(self) -> str:
        """The network's ID."""
        return sha256(self.name.encode()).hexdigest()

    def keys(self) -> dict[str, Any]:
        """The keys of the driver's configuration that were given. Raises Failure."""
        model = PLUGINS[self.driver].models[-1]
        return options.keys_of(self.driver, self.options, model)

    def any_subnets(self, given: tuple[str, ...]) -> Iterator[str]:
        """A subnet of any place for each IP version that has none; others than us choose theirs."""
        if self.driver in SINGLE or self.ipam_driver != HOST_LOCAL:
            return
        if self.ipv4 and all(":" in each for each in given):
            yield _ANY_IPV4
        if self.ipv6 and not any(":" in each for each in given):
            yield _ANY_IPV6
