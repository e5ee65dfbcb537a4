"""Addresses from an IPAM driver that was written for Docker (its remote IPAM protocol).

The pools are requested with the first endpoint of a network and given back with the last.
One lock, of this network and this purpose alone, is held while the driver answers about
pools: every other call of the network would have to wait for that answer anyway, and waits
no longer than its own patience. Addresses are requested without a lock: the driver decides
who gets which.

What cannot be known is decided against giving an address twice: a release that the driver
may have heard counts as done; one that it has not heard is owed, and made up for later.
"""

from cnm_core.config.remote import RemoteConfig, RemotePoolConfig
from cnm_core.errors import (
    AddressInUse,
    DelegateFailed,
    Error,
    InvalidNetworkConfig,
    NotAvailable,
    StateFailure,
    attempt,
    raise_all,
    undo,
)
from cnm_core.inet import Address, format_ip, format_mac, parse_address
from cnm_core.ipam import Request, routes_of
from cnm_core.ipam.docker_plugin import Absent, Plugin, Refused, Unknown
from cnm_core.json import dumps
from cnm_core.kernel import link
from cnm_core.model import Addressing, Drift, EndpointKey, Lease, Pool
from cnm_core.store.remote import GivenPool, Grant, Pools, RemoteStore, Wanted, WantedPool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from cnm_core.store.remote import PatientLock

_GATEWAY = "com.docker.network.gateway"
_MAC = "com.docker.network.endpoint.macaddress"
_RELEASE = "IpamDriver.ReleaseAddress"
_TEXT_LIMIT = 4096


class Remote:
    """The addresses of one network.

    `requests` are addresses that one container is to have, the strongest first, `mac` is
    its MAC address if that is known. `warn` tells the operator what does not stop a call.
    """

    needs_link = False

    def __init__(
        self,
        network: str,
        options: RemoteConfig,
        warn: "Callable[[str], None]",
        requests: tuple[Request, ...] = (),
        mac: bytes | None = None,
    ) -> None:
        self.pool = Pool("remote", options.data_dir)
        self._network = network
        self._options = options
        self._warn = warn
        self._requests = requests
        self._mac = mac
        self._store = RemoteStore(options.data_dir, network)

    def request(self, key: EndpointKey) -> Addressing:
        """One address out of each pool.

        Raises AddressInUse, InvalidNetworkConfig, StateFailure, and what Plugin does.
        """
        wanted = _wanted(self._options)
        plugin = self._plugin(wanted.driver)
        if self._store.grant(key) is not None:
            self.release(key)  # a call that was killed
        try:
            with self._lock():
                pools = self._current(plugin, wanted)
                mac = (self._mac or link.random_mac()) if pools.needs_mac else None
                self._store.save_grant(key, Grant(mac))
            leases = self._lease(plugin, pools, key, mac)
            self._store.save_grant(key, Grant(mac, tuple(each.address for each in leases), True))
        except BaseException:
            undo(self.release, key)
            raise
        self._settle(plugin, pools)
        return Addressing(tuple(leases), routes_of(self._options.routes), mac=mac)

    def release(self, key: EndpointKey) -> None:
        """Give the endpoint's addresses back, and with the last of the network its pools.

        The driver may be away: then it hears of it later, and this succeeds.
        """
        pools = self._recorded()
        if pools is None:
            return
        plugin = self._plugin(pools.wanted.driver)
        self._release(plugin, key)
        self._retire(plugin)

    def drift(self, key: EndpointKey, leases: "Collection[Lease]") -> list[Drift]:
        """Leases that the endpoint was not given, according to the records."""
        owners = {lease.address.ip: self._store.owner(lease.address.ip) for lease in leases}
        return [
            Drift(f"owner of {format_ip(ip)}", f'"{key}"', f'"{owner}"' if owner else "nobody")
            for ip, owner in owners.items()
            if owner != str(key)
        ]

    def collect(self, valid: "Collection[EndpointKey]") -> None:
        """Release every endpoint that is not valid; what was owed before is made up for."""
        pools = self._recorded()
        if pools is None:
            return
        plugin = self._plugin(pools.wanted.driver)
        self._settle(plugin, pools)
        failures: list[Error] = []
        for key in self._store.endpoints():
            if key not in valid:
                attempt(failures, self._release, plugin, key)
        self._retire(plugin)
        raise_all(failures)

    def check_status(self) -> None:
        """Raise NotAvailable unless the driver answers and is one."""
        try:
            self._plugin(_wanted(self._options).driver).activate()
        except Error as error:
            raise NotAvailable(error.msg, details=error.details) from None

    # Pools: under the network's lock.

    def _current(self, plugin: Plugin, wanted: Wanted) -> Pools:
        """The pools as the driver of this moment knows them, requested if need be."""
        pools = self._store.load()
        if pools is None or not pools.complete or pools.wanted != wanted:
            if pools is not None:
                self._refuse_change(pools, wanted)
                pools = self._give_back_pools(plugin, pools)
            return self._request_pools(plugin, wanted, pools)
        return pools if pools.identity == plugin.identity() else self._renew(plugin, pools)

    def _refuse_change(self, pools: Pools, wanted: Wanted) -> None:
        if pools.complete and not self._store.unused():
            given = ", ".join(str(each.subnet) for each in pools.given)
            raise InvalidNetworkConfig(
                f'ipam: asks for other pools than network "{self._network}" has: {given} of '
                f'IPAM driver "{pools.wanted.driver}"',
                details="DEL the network's attachments first, or give the network another name",
            )

    def _request_pools(self, plugin: Plugin, wanted: Wanted, before: Pools | None) -> Pools:
        """Every pool; the subnets of an earlier time are preferred to the driver's choice."""
        pools = self._introduced(plugin, wanted)
        earlier = before.given if before is not None and before.wanted == wanted else ()
        for index, each in enumerate(wanted.pools):
            again = earlier[index].subnet if index < len(earlier) else None
            given = self._request_pool(plugin, pools, each, again)
            pools = self._saved(pools.replace(given=(*pools.given, given)))
            if given.gateway is None or each.gateway is not None:
                gateway = self._request_gateway(plugin, given, each.gateway)
                given = given.replace(gateway=gateway, gateway_leased=True)
                pools = self._saved(pools.replace(given=(*pools.given[:-1], given)))
        return pools

    def _introduced(self, plugin: Plugin, wanted: Wanted) -> Pools:
        """The driver's capabilities, and no pool yet."""
        identity = plugin.identity()
        plugin.activate()
        try:
            can = plugin.call("IpamDriver.GetCapabilities")
        except Unknown:
            can = {}
        needs_mac, replays = can.get("RequiresMACAddress"), can.get("RequiresRequestReplay")
        return Pools(wanted, identity, needs_mac is True, replays is True)

    def _request_pool(
        self, plugin: Plugin, pools: Pools, wanted: WantedPool, again: Address | None
    ) -> GivenPool:
        """One pool, whose subnet is one that the network can use. `again` is only preferred."""
        fields = {
            "AddressSpace": pools.wanted.space or _local_space(plugin),
            "Pool": str(wanted.subnet or again or ""),
            "SubPool": str(wanted.part or ""),
            "Options": pools.wanted.options,
            "V6": wanted.version == 6,
        }
        method = "IpamDriver.RequestPool"
        try:
            answer = plugin.call(method, fields)
        except Refused:
            if wanted.subnet is not None or again is None:
                raise
            answer = plugin.call(method, {**fields, "Pool": ""})
        identifier = _text(plugin, method, answer, "PoolID")
        try:
            subnet = _address(plugin, method, answer, "Pool").network
            problem = _pool_problem(subnet, wanted, pools)
            if problem:
                raise plugin.nonsense(method, f"pool {subnet}, {problem}")
            return GivenPool(identifier, subnet, _own_gateway(plugin, answer, subnet))
        except DelegateFailed:
            self._attempt(plugin, "IpamDriver.ReleasePool", {"PoolID": identifier})
            raise

    def _request_gateway(self, plugin: Plugin, given: GivenPool, ip: bytes | None) -> bytes:
        options = {"RequestAddressType": _GATEWAY}
        return self._request_address(plugin, given, ip, options).ip

    def _renew(self, plugin: Plugin, pools: Pools) -> Pools:
        """Tell a driver that has started anew what it had given, if it wants to hear it.

        What it refuses it has kept, or somebody else has by now: the operator is told.
        """
        renewed = self._introduced(plugin, pools.wanted).replace(given=pools.given)
        if renewed.replays:
            for index, before in enumerate(pools.given):  # fewer than wanted after a kill
                given = self._replay_pool(plugin, renewed, pools.wanted.pools[index], before)
                changed = (*renewed.given[:index], given, *renewed.given[index + 1 :])
                renewed = renewed.replace(given=changed)
                self._saved(renewed.replace(identity=pools.identity))
            for key in self._store.endpoints():
                grant = self._store.grant(key)
                if grant is not None and grant.whole:
                    self._replay_addresses(plugin, renewed, grant)
        return self._saved(renewed)

    def _replay_pool(
        self, plugin: Plugin, pools: Pools, wanted: WantedPool, given: GivenPool
    ) -> GivenPool:
        alone = pools.replace(given=())
        try:
            again = self._request_pool(plugin, alone, wanted.replace(subnet=given.subnet), None)
            if given.gateway_leased:
                self._request_gateway(plugin, again, given.gateway)
        except Refused as error:
            self._warn(f"{error.msg}; {given.subnet} was given before")
            return given
        return given.replace(id=again.id)

    def _replay_addresses(self, plugin: Plugin, pools: Pools, grant: Grant) -> None:
        for address in grant.addresses:
            given = pools.of(address.ip)
            if given is not None:
                try:
                    options = _mac_option(pools, grant.mac)
                    self._request_address(plugin, given, address.ip, options)
                except Refused as error:
                    self._warn(f"{error.msg}; {address} was given before")

    def _retire(self, plugin: Plugin) -> None:
        """Give the pools back if nobody has an address any more."""
        if not self._store.unused():
            return
        with self._lock():
            pools = self._recorded()
            if pools is not None and self._store.unused():
                self._give_back_pools(plugin, pools)

    def _give_back_pools(self, plugin: Plugin, pools: Pools) -> Pools:
        """The pools, without the IDs of those that the driver has, or may have, heard of."""
        for index, each in enumerate(pools.given):
            if not each.id:
                continue
            if each.gateway_leased and each.gateway is not None:
                self._attempt(plugin, _RELEASE, _in_pool(each, each.gateway))
            if self._attempt(plugin, "IpamDriver.ReleasePool", {"PoolID": each.id}):
                given = (*pools.given[:index], each.replace(id=""), *pools.given[index + 1 :])
                pools = self._saved(pools.replace(given=given))
        return pools

    # Addresses: without a lock.

    def _lease(
        self, plugin: Plugin, pools: Pools, key: EndpointKey, mac: bytes | None
    ) -> list[Lease]:
        """One address out of each pool, claimed.

        A driver that wants replays, and whose process cannot be told from its successor,
        may refuse because it knows nothing of the pools: it is told, and asked again.
        """
        try:
            return self._request_leases(plugin, pools, key, mac)
        except Refused:
            if pools.identity or not pools.replays:
                raise
        self._release(plugin, key)
        with self._lock():
            pools = self._renew(plugin, self._store.load() or pools)
            self._store.save_grant(key, Grant(mac))
        return self._request_leases(plugin, pools, key, mac)

    def _request_leases(
        self, plugin: Plugin, pools: Pools, key: EndpointKey, mac: bytes | None
    ) -> list[Lease]:
        preferred = self._preferred(pools)
        leases = []
        for index, given in enumerate(pools.given):
            options = _mac_option(pools, mac)
            address = self._request_address(plugin, given, preferred.get(index), options)
            is_gateway = address.ip == given.gateway
            owner = "gateway" if is_gateway else self._store.claim(address.ip, key)
            if owner:  # so that it is not ours to give back
                raise AddressInUse(
                    f'{plugin} gave {format_ip(address.ip)}, which is held by "{owner}" '
                    f'on network "{self._network}"',
                    details="the driver gives an address twice; DEL frees that of a container",
                )
            leases.append(Lease(address, given.gateway))
        return leases

    def _request_address(
        self, plugin: Plugin, given: GivenPool, ip: bytes | None, options: dict[str, str]
    ) -> Address:
        """One address, which is given back unless the pool can have it."""
        method = "IpamDriver.RequestAddress"
        wanted = format_ip(ip) if ip is not None else ""
        answer = plugin.call(method, {"PoolID": given.id, "Address": wanted, "Options": options})
        address = _address(plugin, method, answer, "Address")
        problem = _address_problem(address, given.subnet, ip)
        if problem:
            self._attempt(plugin, _RELEASE, _in_pool(given, address.ip))
            raise plugin.nonsense(method, f"{address}, {problem}")
        return address

    def _preferred(self, pools: Pools) -> dict[int, bytes]:
        """The address that is wanted out of each pool, where one is; the strongest wins."""
        preferred: dict[int, tuple[bytes, Request]] = {}
        for request in self._requests:
            ip = request.ip
            found = (index for index, each in enumerate(pools.given) if ip in each.subnet)
            index = next(found, None)
            if index is None:
                subnets = ", ".join(str(each.subnet) for each in pools.given)
                raise InvalidNetworkConfig(
                    f'{request.source}: {format_ip(ip)} is in no pool of network "{self._network}"',
                    details=f"its pools are {subnets}",
                )
            chosen, stronger = preferred.setdefault(index, (ip, request))
            if chosen != ip and stronger.source == request.source:
                raise InvalidNetworkConfig(
                    f"{request.source}: {stronger.text} and {request.text} are both out of one "
                    "pool, which gives one address"
                )
        return {index: ip for index, (ip, _) in preferred.items()}

    def _release(self, plugin: Plugin, key: EndpointKey) -> None:
        grant = self._store.grant(key)
        if grant is None:
            return
        pools = self._known(plugin) if grant.addresses else None
        for address in grant.addresses:
            if pools is not None and self._store.owner(address.ip) == str(key):
                self._give_back(plugin, pools, address.ip)
            else:  # an earlier release was killed
                self._warn(f"{plugin}: {address} of {key} may still be held there")
        self._store.remove_grant(key)

    def _known(self, plugin: Plugin) -> Pools | None:
        """The pools, told to the driver again if it has started anew and wants to hear it."""
        pools = self._recorded()
        if pools is None or not pools.replays or pools.identity == plugin.identity():
            return pools
        try:
            with self._lock():
                return self._renew(plugin, self._store.load() or pools)
        except Error as error:
            self._warn(error.msg)
            return pools

    def _give_back(self, plugin: Plugin, pools: Pools, ip: bytes) -> None:
        """Release an address. The claim goes first: the driver may give it at once to another."""
        given = pools.of(ip)
        self._store.free(ip)
        if given is None:
            return
        try:
            plugin.call(_RELEASE, _in_pool(given, ip))
        except (Absent, Refused) as error:
            self._store.owe(ip)
            self._warn(f"{error.msg}; it hears of the release of {format_ip(ip)} later")
        except Error as error:
            self._warn(f"{error.msg}; {format_ip(ip)} may still be held there")

    def _settle(self, plugin: Plugin, pools: Pools) -> None:
        """Make up for the releases that are owed, while the driver serves requests.

        What it refuses by now it does not know.
        """
        for ip in self._store.owed():
            given = pools.of(ip)
            if not self._store.settle(ip) or given is None:
                continue  # another call was faster, or the pool is not the network's any more
            try:
                plugin.call(_RELEASE, _in_pool(given, ip))
            except Absent:
                self._store.owe(ip)
                return
            except Error as error:
                self._warn(f"{error.msg}; {format_ip(ip)} is given up")

    def _attempt(self, plugin: Plugin, method: str, fields: dict[str, object]) -> bool:
        """Call what undoes something; False if the driver has certainly not heard it."""
        try:
            plugin.call(method, fields)
        except Absent as error:
            self._warn(error.msg)
            return False
        except Error as error:
            self._warn(error.msg)
        return True

    def _plugin(self, name: str) -> Plugin:
        return Plugin(name, self._options.timeout_seconds)

    def _lock(self) -> "PatientLock":
        return self._store.lock(self._options.timeout_seconds)

    def _saved(self, pools: Pools) -> Pools:
        self._store.save(pools)
        return pools

    def _recorded(self) -> Pools | None:
        """The pools for giving something back; None where nothing is known of any."""
        try:
            return self._store.load()
        except StateFailure as error:
            self._warn(error.msg)
            return None


def _wanted(options: RemoteConfig) -> Wanted:
    """What to ask the driver for. Raises InvalidNetworkConfig with the key at fault."""
    if options.driver is None:
        raise InvalidNetworkConfig(
            "ipam.driver: is missing", details="give the name of the Docker plugin"
        )
    short = RemotePoolConfig(options.subnet, options.ip_range, options.gateway)
    if options.pools and short != RemotePoolConfig():
        raise InvalidNetworkConfig(
            "ipam.subnet: is short for ipam.pools, which is there as well", details="use one"
        )
    configured = options.pools or (short,)
    pools = [_wanted_pool(each, f"ipam.pools[{index}]") for index, each in enumerate(configured)]
    if options.ipv6 and all(each.version == 4 for each in pools):
        pools.append(WantedPool(6))
    return Wanted(options.driver, options.address_space, options.options, tuple(pools))


def _wanted_pool(config: RemotePoolConfig, place: str) -> WantedPool:
    subnet, part, gateway = config.subnet, config.ip_range, config.gateway
    if subnet is None:
        for key, value in (("ipRange", part), ("gateway", gateway)):
            if value is not None:
                raise InvalidNetworkConfig(f"{place}.{key}: needs a subnet")
        return WantedPool(6 if config.ipv6 else 4)
    if part is not None and (part.ip not in subnet or part.prefix < subnet.prefix):
        raise InvalidNetworkConfig(f"{place}.ipRange: {part} is not inside {subnet}")
    if gateway is not None and gateway not in subnet:
        raise InvalidNetworkConfig(f"{place}.gateway: {format_ip(gateway)} is not in {subnet}")
    if config.ipv6 and subnet.version == 4:
        raise InvalidNetworkConfig(f"{place}.ipv6: is true, and {subnet} is IPv4")
    return WantedPool(subnet.version, subnet, part, gateway)


def _pool_problem(subnet: Address, wanted: WantedPool, pools: Pools) -> str:
    """Why a pool cannot be the network's, "" if it can."""
    if subnet.version != wanted.version:
        return f"which is not IPv{wanted.version}"
    if wanted.subnet is not None and subnet != wanted.subnet:
        return f"and {wanted.subnet} was asked for"
    if subnet.prefix == 0:
        return "which is no network"
    for other in pools.given:
        if subnet.overlaps(other.subnet):
            return f"which overlaps with its pool {other.subnet}"
    return ""


def _address_problem(address: Address, subnet: Address, wanted: bytes | None) -> str:
    """Why an address cannot be the endpoint's, "" if it can."""
    if address.ip not in subnet:
        return f"which is outside of pool {subnet}"
    if wanted is not None and address.ip != wanted:
        return f"and {format_ip(wanted)} was asked for"
    if address.prefix < subnet.prefix:
        return f"whose network is larger than pool {subnet}"
    alone = subnet.prefix >= len(subnet.ip) * 8 - 1  # RFC 3021, RFC 6164
    if not alone and address.ip == subnet.ip:
        return f"which means all of pool {subnet}"
    if not alone and address.version == 4 and address.ip == subnet.last:
        return f"which is the broadcast address of pool {subnet}"
    return ""


def _local_space(plugin: Plugin) -> str:
    method = "IpamDriver.GetDefaultAddressSpaces"
    return _text(plugin, method, plugin.call(method), "LocalDefaultAddressSpace")


def _own_gateway(plugin: Plugin, answer: dict[str, object], subnet: Address) -> bytes | None:
    """The gateway that comes with a pool, where one does."""
    data = answer.get("Data")
    if type(data) is not dict or not data.get(_GATEWAY):
        return None
    method = "IpamDriver.RequestPool"
    gateway = _address(plugin, method, data, _GATEWAY)
    if gateway.ip not in subnet:
        raise plugin.nonsense(method, f"gateway {gateway}, which is outside of pool {subnet}")
    return gateway.ip


def _address(plugin: Plugin, method: str, answer: dict[str, object], key: str) -> Address:
    text = _text(plugin, method, answer, key)
    try:
        return parse_address(text)
    except ValueError as error:
        raise plugin.nonsense(method, f"{key}, which {error}") from None


def _text(plugin: Plugin, method: str, answer: dict[str, object], key: str) -> str:
    value = answer.get(key)
    if type(value) is str and 0 < len(value) <= _TEXT_LIMIT:
        return value
    raise plugin.nonsense(method, f"no {key} of up to {_TEXT_LIMIT} characters", dumps(answer))


def _in_pool(given: GivenPool, ip: bytes) -> dict[str, object]:
    return {"PoolID": given.id, "Address": format_ip(ip)}


def _mac_option(pools: Pools, mac: bytes | None) -> dict[str, str]:
    return {_MAC: format_mac(mac)} if pools.needs_mac and mac is not None else {}
