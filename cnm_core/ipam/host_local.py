"""Addresses out of ranges, kept in files on this host: the Go host-local's keys and files."""

from cnm_core.config.host_local import HostLocalConfig, RangeConfig
from cnm_core.errors import (
    AddressInUse,
    Error,
    InvalidNetworkConfig,
    NotAvailable,
    PoolExhausted,
    TryAgainLater,
    raise_all,
)
from cnm_core.inet import Address, format_ip, to_int, to_ip
from cnm_core.model import Addressing, Dns, Drift, EndpointKey, Lease, Pool, Route
from cnm_core.record import Record
from cnm_core.store import files
from cnm_core.store.allocations import Allocations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


class Range(Record):
    """Addresses of one subnet that may be given out, as numbers, both ends included."""

    subnet: Address
    first: int
    last: int
    gateway: bytes

    def __str__(self) -> str:
        length = len(self.gateway)
        return f"{format_ip(to_ip(self.first, length))}-{format_ip(to_ip(self.last, length))}"


class HostLocal:
    """The allocations of one network."""

    def __init__(self, network: str, options: HostLocalConfig) -> None:
        self.pool = Pool("host-local", options.data_dir)
        self._options = options
        self._network = network
        self._allocations = Allocations(options.data_dir, network)

    def request(self, key: EndpointKey) -> Addressing:
        """One address out of each range set. Raises AddressInUse, PoolExhausted, StateFailure."""
        sets = range_sets(self._options)
        dns = read_resolv_conf(self._options.resolv_conf)
        with self._allocations as allocations:
            held = allocations.of(key)
            if held:
                raise AddressInUse(
                    f"{key.container_id} already has {format_ip(held[0])} for {key.ifname} "
                    f'on network "{self._network}"',
                    details="DEL the attachment before it is added again",
                )
            leases = [self._pick(index, ranges) for index, ranges in enumerate(sets)]
            taken = allocations.claim([lease.address.ip for lease in leases], key)
            if taken is not None:
                raise TryAgainLater(
                    f"{format_ip(taken)} was taken by a process that does not hold the lock"
                )
            for index, lease in enumerate(leases):
                allocations.set_last_reserved(index, lease.address.ip)
        routes = tuple(
            Route(each.dst, each.gw, each.mtu, each.advmss, each.priority, each.table, each.scope)
            for each in self._options.routes
        )
        return Addressing(tuple(leases), routes, dns)

    def release(self, key: EndpointKey) -> None:
        """Free the endpoint's addresses, also those noted without an interface name."""
        if self._allocations.exists():
            with self._allocations as allocations:
                if not allocations.release(key):
                    allocations.release(EndpointKey(key.container_id, ""))

    def drift(self, key: EndpointKey, leases: "Collection[Lease]") -> list[Drift]:
        """Leases that are not allocated to the endpoint, according to the files."""
        if not self._allocations.exists():
            return [Drift(f"allocation of {key}", "at least one address", "none")]
        found = []
        with self._allocations as allocations:
            if not allocations.of(key) and not allocations.of(EndpointKey(key.container_id, "")):
                found.append(Drift(f"allocation of {key}", "at least one address", "none"))
            for lease in leases:
                owner = allocations.owner_of(lease.address.ip)
                if owner not in (key, EndpointKey(key.container_id, "")):
                    holder = "nobody" if owner is None else f'"{owner}"'
                    what = f"owner of {format_ip(lease.address.ip)}"
                    found.append(Drift(what, f'"{key}"', holder))
        return found

    def collect(self, valid: "Collection[EndpointKey]") -> None:
        """Free the addresses of all other owners, and those whose files name nobody."""
        if not self._allocations.exists():
            return
        containers = {key.container_id for key in valid}
        failures: list[Error] = []
        with self._allocations as allocations:
            for owner in list(allocations.owners()):
                if owner in valid or (not owner.ifname and owner.container_id in containers):
                    continue
                try:
                    allocations.release(owner)
                except Error as error:
                    failures.append(error)
            for ip in allocations.ownerless():
                try:
                    allocations.release_ownerless(ip)
                except Error as error:
                    failures.append(error)
        raise_all(failures)

    def check_status(self) -> None:
        """Raise NotAvailable where a range set has no address left."""
        sets = range_sets(self._options)
        with self._allocations:
            for index, ranges in enumerate(sets):
                try:
                    self._pick(index, ranges)
                except PoolExhausted as error:
                    raise NotAvailable(error.msg, details=error.details) from None

    def _pick(self, index: int, ranges: tuple[Range, ...]) -> Lease:
        """The next free address after the one given last, going round all ranges."""
        last = self._allocations.last_reserved(index)
        for chosen, first, end in _search(ranges, last):
            length = len(chosen.gateway)
            free = self._allocations.next_free(first, end, length)
            if free == to_int(chosen.gateway):
                free = self._allocations.next_free(free + 1, end, length)
            if free is not None:
                return Lease(Address(to_ip(free, length), chosen.subnet.prefix), chosen.gateway)
        raise self._exhausted(ranges)

    def _exhausted(self, ranges: tuple[Range, ...]) -> PoolExhausted:
        spans = ", ".join(map(str, ranges))
        damaged = len(self._allocations.ownerless())
        also = f", {damaged} of them by files that name no owner" if damaged else ""
        return PoolExhausted(
            f'no address is left in {spans} of network "{self._network}": all are in use{also}',
            details=f'allocations are files in "{self._options.data_dir}/{self._network}"; '
            "GC frees those of containers that are gone",
        )


def _search(ranges: tuple[Range, ...], last: bytes | None) -> "Iterator[tuple[Range, int, int]]":
    """Spans (range, first, last) to look through in turn: after `last`, and round to it."""
    number = -1 if last is None else to_int(last)
    for index, each in enumerate(ranges):
        if last is not None and last in each.subnet and each.first <= number <= each.last:
            yield each, number + 1, each.last
            for other in ranges[index + 1 :] + ranges[:index]:
                yield other, other.first, other.last
            yield each, each.first, number
            return
    for each in ranges:
        yield each, each.first, each.last


def range_sets(options: HostLocalConfig) -> tuple[tuple[Range, ...], ...]:
    """The range sets of a configuration. Raises InvalidNetworkConfig with the key at fault."""
    sets: list[tuple[Range, ...]] = []
    if options.subnet is not None:
        short = RangeConfig(options.subnet, options.range_start, options.range_end, options.gateway)
        sets.append((_range(short, "ipam"),))
    for outer, configs in enumerate(options.ranges):
        if not configs:
            raise InvalidNetworkConfig(f"ipam.ranges[{outer}]: must have at least one range")
        place = f"ipam.ranges[{outer}]"
        sets.append(
            tuple(_range(config, f"{place}[{inner}]") for inner, config in enumerate(configs))
        )
        if len({len(each.gateway) for each in sets[-1]}) > 1:
            raise InvalidNetworkConfig(f"{place}: must not mix IPv4 and IPv6 in one set")
    if not sets:
        raise InvalidNetworkConfig(
            "ipam.ranges: is missing", details='give "ranges": [[{"subnet": "10.1.0.0/16"}]]'
        )
    _refuse_overlaps([each for ranges in sets for each in ranges])
    return tuple(sets)


def _range(config: RangeConfig, place: str) -> Range:
    subnet = config.subnet
    length = len(subnet.ip)
    if subnet.prefix > length * 8 - 2:
        raise InvalidNetworkConfig(
            f"{place}.subnet: must have room for a gateway and an endpoint, got {subnet}"
        )
    network, end = to_int(subnet.ip), to_int(subnet.last)
    highest = end - 1 if length == 4 else end
    for key, ip in (
        ("rangeStart", config.range_start),
        ("rangeEnd", config.range_end),
        ("gateway", config.gateway),
    ):
        if ip is not None and ip not in subnet:
            raise InvalidNetworkConfig(f"{place}.{key}: must be in {subnet}, got {format_ip(ip)}")
    first = max(to_int(config.range_start), network + 1) if config.range_start else network + 1
    last = min(to_int(config.range_end), highest) if config.range_end else highest
    gateway = config.gateway or to_ip(network + 1, length)
    found = Range(subnet, first, last, gateway)
    if first > last or first == last == to_int(gateway):
        raise InvalidNetworkConfig(f"{place}: has no address to give out between {found}")
    return found


def _refuse_overlaps(ranges: list[Range]) -> None:
    for index, one in enumerate(ranges):
        for other in ranges[:index]:
            same_version = len(one.gateway) == len(other.gateway)
            if same_version and one.first <= other.last and other.first <= one.last:
                raise InvalidNetworkConfig(f"ipam.ranges: {other} and {one} overlap")


def read_resolv_conf(path: str | None) -> Dns:
    """The settings of a resolv.conf(5) file; of repeated domain and search lines the last."""
    if path is None:
        return Dns()
    content = files.read_text(path)
    if content is None:
        raise InvalidNetworkConfig(f'ipam.resolvConf: there is no file "{path}"')
    servers: list[str] = []
    domain, search, options = "", [], []
    for line in content.splitlines():
        words = line.split()
        if len(words) < 2 or words[0][0] in "#;":
            continue
        if words[0] == "nameserver":
            servers.append(words[1])
        elif words[0] == "domain":
            domain = words[1]
        elif words[0] == "search":
            search = words[1:]
        elif words[0] == "options":
            options.extend(words[1:])
    return Dns(tuple(servers), domain, tuple(search), tuple(options))
