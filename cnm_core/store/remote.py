"""Records of what an IPAM driver outside gave to one network, so that it can be given back.

<directory>/<network>/network              the pools, and what was asked for (JSON)
<directory>/<network>/endpoints/<endpoint> the addresses of an endpoint (JSON)
<directory>/<network>/addresses/<address>  a symbolic link whose target is the endpoint's name
<directory>/<network>/owed/<address>       another, once the endpoint is gone and the driver has
                                           yet to hear of it

An endpoint's name is <container ID>:<interface name>. Its file is there before it has an
address, so that nobody gives the pools back meanwhile. A link is claimed by being made,
with its owner in it, so that no address has two.
"""

from errno import EWOULDBLOCK
from fcntl import LOCK_EX, LOCK_NB, flock
from posix import O_CLOEXEC, O_CREAT, O_NOFOLLOW, O_RDWR, close, listdir, readlink, symlink
from posix import open as open_file
from time import monotonic, sleep

from cnm_core import json
from cnm_core.errors import StateFailure, TryAgainLater
from cnm_core.inet import (
    Address,
    format_ip,
    format_mac,
    parse_address,
    parse_ip,
    parse_mac,
    parse_subnet,
)
from cnm_core.model import EndpointKey
from cnm_core.record import Record
from cnm_core.store import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self, TypeVar

    T = TypeVar("T")

FORMAT = 1
_POLL = 0.005  # seconds


class WantedPool(Record):
    """A pool as it is asked for; None leaves a choice to the driver."""

    version: int
    subnet: Address | None = None
    part: Address | None = None
    gateway: bytes | None = None


class Wanted(Record):
    """All that is asked of a driver for a network."""

    driver: str
    space: str
    options: dict[str, str]
    pools: tuple[WantedPool, ...]


class GivenPool(Record):
    """A pool as it was given. `id` is "" once it has been given back.

    `gateway_leased` tells that the gateway is an address to be given back as well.
    """

    id: str
    subnet: Address
    gateway: bytes | None = None
    gateway_leased: bool = False


class Pools(Record):
    """The pools of a network, in the order of what was wanted; fewer while they are asked for.

    `identity` tells the driver's process from its successor; `needs_mac` and `replays` are
    its capabilities.
    """

    wanted: Wanted
    identity: str
    needs_mac: bool
    replays: bool
    given: tuple[GivenPool, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every pool is there, with its gateway."""
        return len(self.given) == len(self.wanted.pools) and all(
            each.id and each.gateway for each in self.given
        )

    def of(self, ip: bytes) -> GivenPool | None:
        """The pool that an address belongs to."""
        return next((each for each in self.given if ip in each.subnet), None)


class Grant(Record):
    """What an endpoint was given. Not `whole` while the driver is asked, or after a kill."""

    mac: bytes | None = None
    addresses: tuple[Address, ...] = ()
    whole: bool = False


class RemoteStore:
    """The records of one network."""

    def __init__(self, directory: str, network: str) -> None:
        self._directory = f"{directory}/{network}"
        self._endpoints = f"{self._directory}/endpoints"
        self._addresses = f"{self._directory}/addresses"
        self._owed = f"{self._directory}/owed"

    def exists(self) -> bool:
        """Whether anything was ever recorded for the network."""
        return bool(_names(self._directory))

    def lock(self, seconds: float) -> "PatientLock":
        """The lock that whoever changes the pools holds, also while the driver answers."""
        files.make_private(self._directory)
        for directory in (self._endpoints, self._addresses, self._owed):
            files.make_private(directory)
        return PatientLock(f"{self._directory}/.lock", seconds)

    def load(self) -> Pools | None:
        """The network's pools, None where it never had any. Raises StateFailure."""
        path = f"{self._directory}/network"
        content = files.read_text(path)
        return None if content is None else _decoded(path, content, _pools)

    def save(self, pools: Pools) -> None:
        """Write the network's pools."""
        files.replace(f"{self._directory}/network", json.dumps(_pools_document(pools)))

    def grant(self, key: EndpointKey) -> Grant | None:
        """What the endpoint was given, None where it is not known."""
        path = f"{self._endpoints}/{key}"
        content = files.read_text(path)
        if content is None:
            return None
        try:
            grant = _decoded(path, content, _grant)
        except StateFailure:
            grant = Grant()  # the claims tell the rest
        return grant if grant.whole else grant.replace(addresses=self._claimed_by(key))

    def save_grant(self, key: EndpointKey, grant: Grant) -> None:
        """Write what the endpoint was given."""
        document = {
            "format": FORMAT,
            "mac": format_mac(grant.mac) if grant.mac else None,
            "addresses": [str(each) for each in grant.addresses] if grant.whole else None,
        }
        files.replace(f"{self._endpoints}/{key}", json.dumps(document))

    def remove_grant(self, key: EndpointKey) -> None:
        """Forget the endpoint."""
        files.remove(files.temporary(f"{self._endpoints}/{key}"))
        files.remove(f"{self._endpoints}/{key}")

    def endpoints(self) -> list[EndpointKey]:
        """Every endpoint that was given something."""
        parts = [name.partition(":") for name in _names(self._endpoints) if name[0] != "."]
        return [EndpointKey(container, ifname) for container, _, ifname in parts]

    def claim(self, ip: bytes, key: EndpointKey) -> str:
        """Note the address as the endpoint's: "", or the owner where it has one already.

        A release of it that was owed must have reached the driver if it gives it again.
        """
        path = f"{self._addresses}/{format_ip(ip)}"
        try:
            symlink(str(key), path)
        except FileExistsError:
            return self.owner(ip)
        except OSError as error:
            raise files.failure("write", path, error) from None
        self.settle(ip)
        return ""

    def owner(self, ip: bytes) -> str:
        """The name of the endpoint that has an address, "" where none has."""
        path = f"{self._addresses}/{format_ip(ip)}"
        try:
            return readlink(path)
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise files.failure("read", path, error) from None

    def free(self, ip: bytes) -> None:
        """Forget an address."""
        files.remove(f"{self._addresses}/{format_ip(ip)}")

    def owe(self, ip: bytes) -> None:
        """Note that an address's release has yet to reach the driver."""
        path = f"{self._owed}/{format_ip(ip)}"
        try:
            symlink("released", path)
        except FileExistsError:
            pass
        except OSError as error:
            raise files.failure("write", path, error) from None

    def owed(self) -> list[bytes]:
        """The addresses whose release has yet to reach the driver."""
        return _ips(self._owed)

    def settle(self, ip: bytes) -> bool:
        """Forget that an address is owed; False where another call was faster."""
        return files.remove(f"{self._owed}/{format_ip(ip)}")

    def unused(self) -> bool:
        """Whether no endpoint has, or asks for, an address, and none is owed."""
        return not (self.endpoints() or _names(self._addresses) or _names(self._owed))

    def _claimed_by(self, key: EndpointKey) -> tuple[Address, ...]:
        """What a call that was killed had claimed; its prefix lengths are not known."""
        claimed = (ip for ip in _ips(self._addresses) if self.owner(ip) == str(key))
        return tuple(Address(ip, len(ip) * 8) for ip in claimed)


class PatientLock:
    """An exclusive flock that is waited for so many seconds and no longer. A context manager."""

    def __init__(self, path: str, seconds: float) -> None:
        self._path = path
        self._seconds = seconds
        self._fd = -1

    def __enter__(self) -> "Self":
        try:
            self._fd = open_file(self._path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
            self._wait()
        except OSError as error:
            raise files.failure("lock", self._path, error) from None
        return self

    def __exit__(self, *_: object) -> None:
        close(self._fd)

    def _wait(self) -> None:
        deadline = monotonic() + self._seconds
        while True:
            try:
                flock(self._fd, LOCK_EX | LOCK_NB)
                return
            except OSError as error:
                if error.errno != EWOULDBLOCK:
                    raise
            if monotonic() > deadline:
                raise TryAgainLater(
                    f'"{self._path}" has been locked for {self._seconds:g} s: another call of the '
                    "network waits for its IPAM driver"
                )
            sleep(_POLL)


def _names(directory: str) -> list[str]:
    try:
        return listdir(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise files.failure("list", directory, error) from None


def _ips(directory: str) -> list[bytes]:
    try:
        return [parse_ip(name) for name in _names(directory)]
    except ValueError as error:
        raise StateFailure(f'file name in "{directory}" {error}', details="remove it") from None


def _pools_document(pools: Pools) -> dict[str, object]:
    wanted = pools.wanted
    return {
        "format": FORMAT,
        "driver": wanted.driver,
        "addressSpace": wanted.space,
        "options": wanted.options,
        "wanted": [
            {
                "version": each.version,
                "subnet": _text(each.subnet),
                "ipRange": _text(each.part),
                "gateway": format_ip(each.gateway) if each.gateway else None,
            }
            for each in wanted.pools
        ],
        "identity": pools.identity,
        "requiresMacAddress": pools.needs_mac,
        "requiresRequestReplay": pools.replays,
        "given": [
            {
                "poolID": each.id,
                "subnet": str(each.subnet),
                "gateway": format_ip(each.gateway) if each.gateway else None,
                "gatewayLeased": each.gateway_leased,
            }
            for each in pools.given
        ],
    }


def _pools(fields: "dict[str, Any]") -> Pools:
    return Pools(
        wanted=Wanted(
            driver=str(fields["driver"]),
            space=str(fields["addressSpace"]),
            options={key: str(value) for key, value in fields["options"].items()},
            pools=tuple(
                WantedPool(
                    int(each["version"]),
                    parse_subnet(each["subnet"]) if each["subnet"] else None,
                    parse_subnet(each["ipRange"]) if each["ipRange"] else None,
                    parse_ip(each["gateway"]) if each["gateway"] else None,
                )
                for each in fields["wanted"]
            ),
        ),
        identity=str(fields["identity"]),
        needs_mac=fields["requiresMacAddress"] is True,
        replays=fields["requiresRequestReplay"] is True,
        given=tuple(
            GivenPool(
                str(each["poolID"]),
                parse_subnet(each["subnet"]),
                parse_ip(each["gateway"]) if each["gateway"] else None,
                each["gatewayLeased"] is True,
            )
            for each in fields["given"]
        ),
    )


def _grant(fields: "dict[str, Any]") -> Grant:
    whole = fields["addresses"] is not None
    return Grant(
        mac=parse_mac(fields["mac"]) if fields["mac"] else None,
        addresses=tuple(map(parse_address, fields["addresses"])) if whole else (),
        whole=whole,
    )


def _text(subnet: Address | None) -> str | None:
    return None if subnet is None else str(subnet)


def _decoded(path: str, content: str, decode: "Callable[[dict[str, Any]], T]") -> "T":
    try:
        fields = json.loads(content)
        if type(fields) is not dict or fields.get("format") != FORMAT:
            raise ValueError(f"not a record of format {FORMAT}")
        return decode(fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateFailure(
            f'record "{path}" is damaged: {error}',
            details=f'remove "{path.rpartition("/")[0]}"; what the network still has of its '
            "driver must then be freed there",
        ) from None
