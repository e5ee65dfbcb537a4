"""Addresses out of ranges, kept in files on this host: the Go host-local's keys and files."""

from time import time_ns

from cnm_core.config.host_local import HostLocalConfig, RangeConfig
from cnm_core.errors import (
    AddressInUse,
    Error,
    InvalidNetworkConfig,
    NotAvailable,
    PoolExhausted,
    StateFailure,
    TryAgainLater,
    attempt,
    raise_all,
)
from cnm_core.inet import Address, format_ip, to_int, to_ip
from cnm_core.ipam import Request, routes_of
from cnm_core.kernel import sysctl
from cnm_core.model import Addressing, Dns, Drift, EndpointKey, Lease, Pool
from cnm_core.record import Record
from cnm_core.store import files
from cnm_core.store.allocations import Allocations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator


class Reserved(Record):
    """Addresses that are not given out, as numbers, both ends included, and what they are."""

    first: int
    last: int
    what: str


class Range(Record):
    """Addresses of one subnet that may be given out, as numbers, both ends included.

    `reserved` are exceptions, of which the gateway is one, in ascending order.
    """

    subnet: Address
    first: int
    last: int
    gateway: bytes | None
    reserved: tuple[Reserved, ...] = ()

    def __str__(self) -> str:
        length = len(self.subnet.ip)
        return f"{format_ip(to_ip(self.first, length))}-{format_ip(to_ip(self.last, length))}"

    def __contains__(self, ip: bytes) -> bool:
        return len(ip) == len(self.subnet.ip) and self.first <= to_int(ip) <= self.last

    def spans(self, first: int, last: int) -> "Iterator[tuple[int, int]]":
        """What is left from first to last without the reserved addresses."""
        for each in self.reserved:
            if each.first > last:
                break
            if first < each.first:
                yield first, each.first - 1
            first = max(first, each.last + 1)
        if first <= last:
            yield first, last

    def reservation(self, ip: bytes) -> str:
        """What a reserved address is, "" for others."""
        number = to_int(ip) if len(ip) == len(self.subnet.ip) else -1
        found = (each.what for each in self.reserved if each.first <= number <= each.last)
        return next(found, "")


class HostLocal:
    """The allocations of one network.

    `requests` are addresses that one container is to have, the strongest first;
    `ip_ranges` range sets before those of the options. `clock` tells nanoseconds since
    1970, `boot` what is different after each reboot. What an endpoint has from before the last
    one is replaced at its request, unless somebody else knows of it: not `replaces_stale`.
    """

    needs_link = False

    def __init__(
        self,
        network: str,
        options: HostLocalConfig,
        requests: tuple[Request, ...] = (),
        ip_ranges: tuple[tuple[RangeConfig, ...], ...] = (),
        clock: "Callable[[], int]" = time_ns,
        boot: "Callable[[], str]" = sysctl.boot_id,
        *,
        replaces_stale: bool = True,
    ) -> None:
        self.pool = Pool("host-local", options.data_dir)
        self._options = options
        self._network = network
        self._requests = requests
        self._ip_ranges = ip_ranges
        self._clock = clock
        self._replaces_stale = replaces_stale
        self._allocations = Allocations(options.data_dir, network, boot)

    def request(self, key: EndpointKey) -> Addressing:
        """One address out of each range set.

        Raises AddressInUse, PoolExhausted, TryAgainLater, InvalidNetworkConfig, StateFailure.
        """
        sets = range_sets(self._options, self._ip_ranges)
        wanted = self._wanted(sets)
        dns = read_resolv_conf(self._options.resolv_conf)
        with self._allocations as allocations:
            held = allocations.of(key)
            if held and self._replaces_stale and allocations.is_stale(key):
                allocations.release(key)  # its container went down with the machine
            elif held:
                raise AddressInUse(
                    f"{key.container_id} already has {format_ip(held[0])} for {key.ifname} "
                    f'on network "{self._network}"',
                    details="DEL the attachment before it is added again",
                )
            leases = [
                self._take(*wanted[index]) if index in wanted else self._pick(index, ranges)
                for index, ranges in enumerate(sets)
            ]
            for index, lease in enumerate(leases):
                if index in wanted:
                    allocations.wake_early(lease.address.ip)
                else:
                    allocations.set_last_reserved(index, lease.address.ip)
            # The last step, so that a disk that is full leaves nothing claimed.
            taken = allocations.claim([lease.address.ip for lease in leases], key)
            if taken is not None:
                raise TryAgainLater(
                    f"{format_ip(taken)} was taken by a process that does not hold the lock"
                )
        return Addressing(tuple(leases), routes_of(self._options.routes), dns)

    def release(self, key: EndpointKey) -> None:
        """Free the endpoint's addresses, also those noted without an interface name."""
        self.free(key)

    def free(self, key: EndpointKey) -> list[bytes]:
        """What `release` does; which addresses they were, none where files do not tell."""
        if not self._allocations.exists():
            return []
        without_interface = EndpointKey(key.container_id, "")
        try:
            with self._allocations as allocations:
                since = self._rest_since()
                return allocations.release(key, rest_since=since) or allocations.release(
                    without_interface, rest_since=since
                )
        except StateFailure:
            for owner in (key, without_interface):
                self._allocations.release_unindexed(owner)
            return []

    def owners(self) -> list[EndpointKey]:
        """Everybody who has addresses."""
        if not self._allocations.exists():
            return []
        with self._allocations as allocations:
            return list(allocations.owners())

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
        """Free the addresses of all other owners, and those whose files name nobody.

        Not those that are younger than the grace: what GC calls valid may be older. A reboot
        ends the grace, since it ended the container.
        This is rare enough to look at each file, whatever the index says.
        """
        if not self._allocations.exists():
            return
        containers = {key.container_id for key in valid}
        failures: list[Error] = []
        with self._allocations as allocations:
            allocations.rebuild()
            for owner in list(allocations.owners()):
                if owner in valid or (not owner.ifname and owner.container_id in containers):
                    continue
                if self._is_young(allocations.of(owner)) and not allocations.is_stale(owner):
                    continue
                attempt(failures, allocations.release, owner, rest_since=self._rest_since())
            for ip in allocations.ownerless():
                if not self._is_young([ip]):
                    release = allocations.release_ownerless
                    attempt(failures, release, ip, rest_since=self._rest_since())
        raise_all(failures)

    def check_status(self) -> None:
        """Raise NotAvailable where a range set has no address left."""
        sets = range_sets(self._options, self._ip_ranges)
        with self._allocations:
            for index, ranges in enumerate(sets):
                try:
                    self._pick(index, ranges)
                except (PoolExhausted, TryAgainLater) as error:
                    raise NotAvailable(error.msg, details=error.details) from None

    def _wanted(self, sets: tuple[tuple[Range, ...], ...]) -> "dict[int, tuple[Range, Request]]":
        """The address that is wanted out of each range set, where one is.

        Of sources that want different ones out of the same set the strongest is heard.
        """
        wanted: dict[int, tuple[Range, Request]] = {}
        for request in self._requests:
            index, chosen = _place_in(sets, request, self._network)
            _, stronger = wanted.setdefault(index, (chosen, request))
            if stronger.source == request.source and stronger.text != request.text:
                raise InvalidNetworkConfig(
                    f"{request.source}: {stronger.text} and {request.text} are both "
                    f"out of one range set of ipam, which gives one address",
                    details="ask for one of them, or put their ranges into two sets",
                )
        return wanted

    def _take(self, chosen: Range, request: Request) -> Lease:
        """The address that is wanted, unless somebody has it."""
        ip = request.ip
        owner = self._allocations.owner_of(ip)
        if owner is not None:
            holder = f'"{owner}"' if owner.container_id else "a file that names no owner"
            raise AddressInUse(
                f'{request.source}: {format_ip(ip)} of network "{self._network}" '
                f"is held by {holder}",
                details="ask for another address, or DEL the attachment that holds it; "
                "GC frees those of containers that are gone",
            )
        return Lease(Address(ip, chosen.subnet.prefix), chosen.gateway)

    def _pick(self, index: int, ranges: tuple[Range, ...]) -> Lease:
        """The next free address after the one given last, going round all ranges."""
        first_fit = self._options.allocation == "first-fit"
        last = None if first_fit else self._allocations.last_reserved(index)
        now, woken = self._clock(), True
        while woken:
            woken = self._allocations.wake(now, self._options.quarantine_seconds)
            for chosen, first, end in _search(ranges, last):
                length = len(chosen.subnet.ip)
                for low, high in chosen.spans(first, end):
                    free = self._allocations.next_free(low, high, length)
                    if free is not None:
                        ip = to_ip(free, length)
                        return Lease(Address(ip, chosen.subnet.prefix), chosen.gateway)
        raise self._resting(ranges, now) or self._exhausted(ranges)

    def _resting(self, ranges: tuple[Range, ...], now: int) -> TryAgainLater | None:
        for since, ip in self._allocations.resting():
            if any(ip in each and not each.reservation(ip) for each in ranges):
                rest = self._options.quarantine_seconds
                seconds = -(-(since + rest * files.SECOND - now) // files.SECOND)
                return TryAgainLater(
                    f"no address is left in {', '.join(map(str, ranges))} of network "
                    f'"{self._network}" but such as rest after their release: the next, '
                    f"{format_ip(ip)}, is free in {seconds} s",
                    details=f"ipam.quarantineSeconds is {rest}",
                )
        return None

    def _rest_since(self) -> int | None:
        return self._clock() if self._options.quarantine_seconds else None

    def _is_young(self, ips: list[bytes]) -> bool:
        grace = self._options.gc_grace_seconds
        if not grace:
            return False
        now = self._clock()
        return any(files.within(self._allocations.allocated_at(ip), now, grace) for ip in ips)

    def _exhausted(self, ranges: tuple[Range, ...]) -> PoolExhausted:
        spans = ", ".join(map(str, ranges))
        damaged = len(self._allocations.ownerless())
        also = f", {damaged} of them by files that name no owner" if damaged else ""
        stale = sum(map(self._allocations.is_stale, self._allocations.owners()))
        also += f", by {stale} attachments since before the machine was booted" if stale else ""
        return PoolExhausted(
            f'no address is left in {spans} of network "{self._network}": all are in use{also}',
            details=f'allocations are files in "{self._options.data_dir}/{self._network}"; '
            "GC frees those of containers that are gone",
        )


def _search(ranges: tuple[Range, ...], last: bytes | None) -> "Iterator[tuple[Range, int, int]]":
    """Spans (range, first, last) to look through in turn: after `last`, and round to it."""
    number = -1 if last is None else to_int(last)
    for index, each in enumerate(ranges):
        if last is not None and last in each:
            yield each, number + 1, each.last
            for other in ranges[index + 1 :] + ranges[:index]:
                yield other, other.first, other.last
            yield each, each.first, number
            return
    for each in ranges:
        yield each, each.first, each.last


def _place_in(
    sets: tuple[tuple[Range, ...], ...], request: Request, network: str
) -> tuple[int, Range]:
    """The index of the range set that has a wanted address, and which of its ranges it is."""
    ip = request.ip
    for index, ranges in enumerate(sets):
        for each in ranges:
            what = each.reservation(ip)
            if what:
                raise InvalidNetworkConfig(
                    f"{request.source}: {format_ip(ip)} is never given, it is {what}",
                    details=f"ask for another address of {each}",
                )
            if ip in each:
                return index, each
    spans = ", ".join(str(each) for ranges in sets for each in ranges)
    raise InvalidNetworkConfig(
        f'{request.source}: {format_ip(ip)} is in no range of network "{network}"',
        details=f"its ranges are {spans}",
    )


def range_sets(
    options: HostLocalConfig, ip_ranges: tuple[tuple[RangeConfig, ...], ...] = ()
) -> tuple[tuple[Range, ...], ...]:
    """The range sets of a configuration. Raises InvalidNetworkConfig with the key at fault."""
    sets = _sets(ip_ranges, "runtimeConfig.ipRanges")
    if options.subnet is not None:
        short = RangeConfig(
            options.subnet,
            options.range_start,
            options.range_end,
            options.ip_range,
            options.gateway,
            options.exclude,
            options.aux_addresses,
        )
        sets.append((_range(short, "ipam"),))
    else:
        _refuse_homeless(options)
    sets += _sets(options.ranges, "ipam.ranges")
    if not sets:
        raise InvalidNetworkConfig(
            "ipam.ranges: is missing", details='give "ranges": [[{"subnet": "10.1.0.0/16"}]]'
        )
    keys = "runtimeConfig.ipRanges, ipam.ranges" if ip_ranges else "ipam.ranges"
    _refuse_overlaps([each for ranges in sets for each in ranges], keys)
    return tuple(sets)


def _refuse_homeless(options: HostLocalConfig) -> None:
    """Raise InvalidNetworkConfig for exceptions that stand where there is no subnet."""
    users = [f"{name} {format_ip(ip)}" for name, ip in options.aux_addresses.items()]
    for key, texts in (
        ("ipRange", [str(options.ip_range)] if options.ip_range else []),
        ("exclude", list(map(str, options.exclude))),
        ("auxAddresses", users),
    ):
        if texts:
            raise InvalidNetworkConfig(
                f"ipam.{key}: is about ipam.subnet, which is missing, got {', '.join(texts)}",
                details=f"put {key} beside its subnet, into ipam.ranges[0][0] for instance",
            )


def _sets(configs: tuple[tuple[RangeConfig, ...], ...], place: str) -> list[tuple[Range, ...]]:
    sets = []
    for outer, alternatives in enumerate(configs):
        if not alternatives:
            raise InvalidNetworkConfig(f"{place}[{outer}]: must have at least one range")
        sets.append(
            tuple(
                _range(config, f"{place}[{outer}][{inner}]")
                for inner, config in enumerate(alternatives)
            )
        )
        if len({len(each.subnet.ip) for each in sets[-1]}) > 1:
            raise InvalidNetworkConfig(f"{place}[{outer}]: must not mix IPv4 and IPv6 in one set")
    return sets


def _range(config: RangeConfig, place: str) -> Range:
    _refuse_unusable(config.subnet, place)
    _refuse_outsiders(config, place)
    first, last = _hosts(config.subnet)
    gateway = config.gateway
    if gateway is None and first != last:
        gateway = to_ip(first, len(config.subnet.ip))
    if config.ip_range is not None:
        first, last = (
            max(first, to_int(config.ip_range.ip)),
            min(last, to_int(config.ip_range.last)),
        )
    if config.range_start is not None:
        first = max(first, to_int(config.range_start))
    if config.range_end is not None:
        last = min(last, to_int(config.range_end))
    found = Range(config.subnet, first, last, gateway, _reserved(config, gateway))
    if next(found.spans(first, last), None) is None:
        raise InvalidNetworkConfig(
            f"{place}: has no address to give out between {found}",
            details="the gateway, exclude and auxAddresses are never given",
        )
    return found


def _hosts(subnet: Address) -> tuple[int, int]:
    """The first and the last address that a host may have.

    All of a point-to-point subnet (RFC 3021, RFC 6164) and of a single address; else not
    the network's (RFC 4291's subnet-router anycast), nor IPv4's broadcast address.
    """
    first, last = to_int(subnet.ip), to_int(subnet.last)
    if last - first < 2:
        return first, last
    return first + 1, last - 1 if subnet.version == 4 else last


def _refuse_unusable(subnet: Address, place: str) -> None:
    """Raise InvalidNetworkConfig for a subnet of which no container can have an address."""
    first = subnet.ip[0]
    if subnet.version == 4:
        what = {0: "no network", 127: "the host's own"}.get(first, "")
        multicast = 224 <= first < 240
    else:
        what = "" if any(subnet.ip[:8]) else "no network"  # ::, ::1 and IPv4's (RFC 4291)
        multicast = first == 0xFF
    if what or multicast:
        raise InvalidNetworkConfig(
            f"{place}.subnet: containers cannot have addresses of {subnet}, "
            f"which is {what or 'for multicast'}",
            details="give a subnet such as 10.88.0.0/24 or fd00:88::/64; `cnm network create` "
            "can choose one",
        )


def _refuse_outsiders(config: RangeConfig, place: str) -> None:
    """Raise InvalidNetworkConfig for an address of a range that is not in its subnet."""
    subnet = config.subnet
    named = [("rangeStart", config.range_start), ("rangeEnd", config.range_end)]
    if subnet.prefix < len(subnet.ip) * 8 or len(config.gateway or subnet.ip) != len(subnet.ip):
        named.append(("gateway", config.gateway))  # a single address has it elsewhere
    named += [(f"auxAddresses.{name}", ip) for name, ip in config.aux_addresses.items()]
    for key, ip in named:
        if ip is not None and ip not in subnet:
            raise InvalidNetworkConfig(f"{place}.{key}: must be in {subnet}, got {format_ip(ip)}")
    inner = config.ip_range
    if inner is not None and (inner.ip not in subnet or inner.prefix < subnet.prefix):
        raise InvalidNetworkConfig(f"{place}.ipRange: must be in {subnet}, got {inner}")
    for index, span in enumerate(config.exclude):
        if span.first not in subnet or span.last not in subnet:
            raise InvalidNetworkConfig(f"{place}.exclude[{index}]: must be in {subnet}, got {span}")


def _reserved(config: RangeConfig, gateway: bytes | None) -> tuple[Reserved, ...]:
    found = [
        Reserved(to_int(span.first), to_int(span.last), f"excluded by {span}")
        for span in config.exclude
    ]
    for name, ip in config.aux_addresses.items():
        found.append(Reserved(to_int(ip), to_int(ip), f'the auxiliary address "{name}"'))
    if gateway is not None:
        number = to_int(gateway)
        found.append(Reserved(number, number, f"the gateway of {config.subnet}"))
    return tuple(sorted(found, key=lambda each: each.first))


def _refuse_overlaps(ranges: list[Range], keys: str) -> None:
    for index, one in enumerate(ranges):
        for other in ranges[:index]:
            same_version = one.subnet.version == other.subnet.version
            if same_version and one.first <= other.last and other.first <= one.last:
                raise InvalidNetworkConfig(f"{keys}: {other} and {one} overlap")


def read_resolv_conf(path: str | None) -> Dns:
    """The settings of a resolv.conf(5) file; of repeated domain and search lines the last."""
    if path is None:
        return Dns()
    content = files.read_text(path, links=True)
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
