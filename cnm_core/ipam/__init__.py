"""IPAM drivers: who gives addresses to endpoints.

A driver is made for one network and answers request, release, drift, collect and
check_status; `cnm_core/cni/pools.py` picks it by the configuration's `ipam.type`.
"""

from cnm_core.inet import format_ip, parse_ip
from cnm_core.model import Addressing, Dns, Drift, EndpointKey, Lease, Pool, Route
from cnm_core.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Protocol

    from cnm_core.config.network import DnsConfig, RouteConfig

    class IpamDriver(Protocol):
        """What the controller asks of an IPAM driver."""

        @property
        def pool(self) -> Pool:
            """What a record needs to name, so that the addresses can be given back."""

        @property
        def needs_link(self) -> bool:
            """Whether it talks through the endpoint's link: asked after that is made, and
            told to release before it goes.
            """

        def request(self, key: EndpointKey) -> Addressing:
            """Allocate addresses for an endpoint; PoolExhausted, AddressInUse."""

        def release(self, key: EndpointKey) -> None:
            """Free the addresses of an endpoint; it may have none."""

        def drift(self, key: EndpointKey, leases: "Collection[Lease]") -> list[Drift]:
            """How the allocations differ from the leases that the endpoint has."""

        def collect(self, valid: "Collection[EndpointKey]") -> None:
            """Free the addresses of every endpoint that is not among the valid ones."""

        def check_status(self) -> None:
            """Raise NotAvailable unless a request can be served."""


# The weakest of the sources of requests: the static driver adds it to what is configured.
ENVIRONMENT = "CNI_ARGS: IP"


class Request(Record):
    """An address that somebody asked for, with or without prefix length, and who did."""

    text: str
    source: str

    @property
    def ip(self) -> bytes:
        """The address; in a pool its prefix length is its subnet's, whatever was asked for."""
        return parse_ip(self.text.partition("/")[0])


class NoIpam:
    """For layer 2 networks: no addresses."""

    pool = Pool()
    needs_link = False

    def request(self, key: EndpointKey) -> Addressing:
        """No addresses."""
        return Addressing()

    def release(self, key: EndpointKey) -> None:
        """Nothing to free."""

    def drift(self, key: EndpointKey, leases: "Collection[Lease]") -> list[Drift]:
        """Nothing can differ."""
        return []

    def collect(self, valid: "Collection[EndpointKey]") -> None:
        """Nothing to free."""

    def check_status(self) -> None:
        """Always ready."""


def routes_of(configs: "tuple[RouteConfig, ...]") -> tuple[Route, ...]:
    """Routes that a configuration gives to endpoints."""
    return tuple(
        Route(each.dst, each.gw, each.mtu, each.advmss, each.priority, each.table, each.scope)
        for each in configs
    )


def dns_of(config: "DnsConfig") -> Dns:
    """Resolver settings of a configuration."""
    servers = tuple(map(format_ip, config.nameservers))
    return Dns(servers, config.domain, config.search, config.options)
