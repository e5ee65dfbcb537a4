"""Addresses that the configuration or the runtime says, for one container. Keeps no state."""

from cnm_core.config.static import StaticConfig
from cnm_core.errors import InvalidEnvironment, InvalidNetworkConfig
from cnm_core.inet import Address, format_ip, parse_address
from cnm_core.ipam import ENVIRONMENT, Request, dns_of, routes_of
from cnm_core.model import Addressing, Drift, EndpointKey, Lease, Pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection


class Static:
    """The addresses of one container.

    `requests` are those that the runtime asks for, the strongest first: those of the
    environment come in addition to the configured ones, others in their place.
    `gateways` belong to the addresses whose networks have them.
    """

    pool = Pool("static")
    needs_link = False

    def __init__(
        self,
        options: StaticConfig,
        requests: tuple[Request, ...] = (),
        gateways: tuple[bytes, ...] = (),
    ) -> None:
        self._options = options
        self._requests = requests
        self._gateways = gateways

    def request(self, key: EndpointKey) -> Addressing:
        """The addresses as they were given. Raises InvalidNetworkConfig where there are none."""
        leases = self._leases()
        if not leases:
            raise InvalidNetworkConfig(
                "ipam.addresses: is missing",
                details='give "addresses": [{"address": "10.1.0.5/24"}], or an address by '
                "runtimeConfig.ips, args.cni.ips or IP= in CNI_ARGS",
            )
        options = self._options
        return Addressing(tuple(leases), routes_of(options.routes), dns_of(options.dns))

    def release(self, key: EndpointKey) -> None:
        """Nothing to free."""

    def drift(self, key: EndpointKey, leases: "Collection[Lease]") -> list[Drift]:
        """Addresses of the configuration that the endpoint has not."""
        there = {lease.address for lease in leases}
        found = ", ".join(map(str, there)) or "none"
        return [
            Drift(f"address of {key}", str(lease.address), found)
            for lease in self._leases()
            if lease.address not in there
        ]

    def collect(self, valid: "Collection[EndpointKey]") -> None:
        """Nothing to free."""

    def check_status(self) -> None:
        """Ready: which addresses a container gets may be said as late as in its ADD."""

    def _leases(self) -> list[Lease]:
        stronger = [each for each in self._requests if each.source != ENVIRONMENT]
        leases = [] if stronger else self._configured()
        for request in self._requests:
            if not stronger or request.source == stronger[0].source:
                leases.append(self._with_gateway(Lease(_address_of(request))))
        _refuse_twice(leases)
        for gateway in self._gateways if leases else ():
            if not any(gateway in lease.address for lease in leases):
                raise InvalidEnvironment(
                    f"CNI_ARGS: GATEWAY {format_ip(gateway)} is in the network of no address",
                    details=f"the addresses are {', '.join(str(each.address) for each in leases)}",
                )
        return leases

    def _configured(self) -> list[Lease]:
        leases = []
        for index, each in enumerate(self._options.addresses):
            if each.gateway is not None and len(each.gateway) != len(each.address.ip):
                raise InvalidNetworkConfig(
                    f"ipam.addresses[{index}].gateway: must be of the family of "
                    f"{each.address}, got {format_ip(each.gateway)}"
                )
            leases.append(self._with_gateway(Lease(each.address, each.gateway)))
        return leases

    def _with_gateway(self, lease: Lease) -> Lease:
        for gateway in self._gateways:
            if gateway in lease.address:
                return lease.replace(gateway=gateway)
        return lease


def _address_of(request: Request) -> Address:
    try:
        return parse_address(request.text)
    except ValueError as error:
        raise InvalidNetworkConfig(
            f"{request.source}: {error}", details="a static address has no pool to take it from"
        ) from None


def _refuse_twice(leases: list[Lease]) -> None:
    seen: set[bytes] = set()
    for lease in leases:
        if lease.address.ip in seen:
            raise InvalidNetworkConfig(f"ipam.addresses: {lease.address} is there twice")
        seen.add(lease.address.ip)
