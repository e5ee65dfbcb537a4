"""The Container Network Model's verbs, in their order and with their undoing.

Crash order, for every verb that makes something: claim the addresses, write the record,
change the kernel, answer. Whatever prefix of it a kill leaves, `detach` and `collect`
repair, and so does the next `attach` of the same endpoint.
"""

from cnm_core.errors import (
    AddressInUse,
    Damaged,
    Drifted,
    Error,
    InterfaceExists,
    NotAvailable,
    StateFailure,
    attempt,
    raise_all,
    undo,
)
from cnm_core.kernel import link
from cnm_core.kernel.netlink import Socket
from cnm_core.kernel.netns import Netns, find_netns, is_of_another_boot
from cnm_core.model import (
    Addressing,
    Attachment,
    Drift,
    Endpoint,
    EndpointKey,
    EndpointOptions,
    Lease,
    Network,
    Sandbox,
)
from cnm_core.phases import ended
from cnm_core.store.endpoints import EndpointStore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Protocol

    from cnm_core.ipam import IpamDriver

    class Driver(Protocol):
        """What the controller asks of a network driver."""

        def validate(self, network: Network, options: EndpointOptions) -> None:
            """Refuse what cannot work, before anything is changed. InvalidNetworkConfig."""

        def complete(self, network: Network, addressing: Addressing) -> Addressing:
            """Add what the network implies to what the IPAM driver gave: gateways, routes."""

        def create_network(self, network: Network, leases: tuple[Lease, ...]) -> bool:
            """Make what the network's endpoints share; whether nothing of it was there.

            Safe to repeat: with leases, once they are known.
            """

        def create_endpoint(self, network: Network, endpoint: Endpoint) -> Endpoint:
            """Choose names and MAC address; changes nothing yet.

            `parents` of the endpoint are the links that `create_network` makes where they
            are missing and that go with the last endpoint that stands on them.
            """

        def join(self, network: Network, endpoint: Endpoint, netns: Netns) -> None:
            """Make the links. Undoes itself where it fails."""

        def configure(self, network: Network, endpoint: Endpoint, netns: Netns) -> Attachment:
            """Give the container's end its addresses and routes; `leave` undoes it."""

        def leave(self, key: EndpointKey, endpoint: Endpoint | None, netns: Netns | None) -> None:
            """Remove the links; without a record what the sandbox has under that name."""

        def joined(self, key: EndpointKey, netns: Netns) -> bool:
            """Whether the sandbox has a link of the endpoint's name."""

        def drift(
            self,
            network: Network,
            key: EndpointKey,
            endpoint: Endpoint | None,
            attachment: Attachment,
            netns: Netns,
        ) -> list[Drift]:
            """How the kernel differs from the attachment."""

        def check_status(self, network: Network) -> None:
            """Raise NotAvailable unless the network can take endpoints."""

        def collect(self, network: str, known: "Callable[[], Collection[EndpointKey]]") -> None:
            """Remove what the host has of endpoints of the network that are not known.

            For what no record tells of any more. `known` is to be called after the kernel
            was asked: a record is there before what it is about. The lock of parents is held.
            """

        def disown(self, network: str, key: EndpointKey) -> None:
            """Remove what the host has of an endpoint whose record makes no sense."""

        def delete_network(self, network: Network) -> None:
            """Remove what the endpoints shared, if we made it; safe to repeat."""


class NetworkController:
    """One network driver and one IPAM driver, over the records of endpoints."""

    def __init__(self, driver: "Driver", store: EndpointStore) -> None:
        self._driver = driver
        self._store = store
        self._made: Network | None = None  # what this call has made itself

    def create_network(self, network: Network, leases: tuple[Lease, ...] = ()) -> None:
        """Make what the network's endpoints share, with the gateways of the leases."""
        with self._store.lock(network.name):
            self._driver.create_network(network, leases)

    def create_endpoint(
        self,
        network: Network,
        key: EndpointKey,
        sandbox: Sandbox,
        ipam: "IpamDriver",
        options: EndpointOptions,
    ) -> Endpoint:
        """RequestAddress and CreateEndpoint: claimed and recorded, and no link of it made yet.

        Without addresses where the IPAM driver needs the link first: then `join` asks it.
        """
        addressing = Addressing() if ipam.needs_link else _request(ipam, key)
        ended("addresses")
        try:
            if not ipam.needs_link:
                addressing = self._driver.complete(network, addressing)
            endpoint = Endpoint(
                network=network.name,
                key=key,
                sandbox=sandbox,
                mac=options.mac or addressing.mac,
                ports=options.ports,
                pool=network.pool,
                addressing=addressing,
            )
            with self._store.lock(network.name):
                endpoint = self._establish(network, self._driver.create_endpoint(network, endpoint))
            ended("network")
            return endpoint
        except BaseException:
            # There is no link yet, but rules may have been restored by the new record.
            undo(self.detach, network.name, key, None, lambda _: ipam)
            raise

    def join(
        self, network: Network, endpoint: Endpoint, netns: Netns, ipam: "IpamDriver"
    ) -> Attachment:
        """Connect the endpoint with its sandbox; where that fails, nothing of it is left."""
        try:
            self._driver.join(network, endpoint, netns)
            ended("links")
            if ipam.needs_link:
                endpoint = self._address(network, endpoint, ipam)
                ended("addresses")
            attachment = self._driver.configure(network, endpoint, netns)
            ended("sandbox")
            return attachment
        except InterfaceExists:  # it is somebody else's
            undo(self.delete_endpoint, network.name, endpoint.key, ipam)
            raise
        except BaseException:
            # Where this fails too, the record stays, for DEL.
            undo(self.detach, network.name, endpoint.key, netns, lambda _: ipam)
            raise

    def leave(self, key: EndpointKey, endpoint: Endpoint | None, netns: Netns | None) -> None:
        """Disconnect the endpoint; its sandbox may be gone, and so may its record."""
        self._driver.leave(key, endpoint, netns)

    def delete_endpoint(self, network: str, key: EndpointKey, ipam: "IpamDriver") -> None:
        """ReleaseAddress, and forget the endpoint."""
        ipam.release(key)
        self._forget(network, key, self.endpoint(network, key))

    def attach(
        self,
        network: Network,
        key: EndpointKey,
        netns: Netns,
        ipam: "IpamDriver",
        options: EndpointOptions,
    ) -> Attachment:
        """Give the sandbox an endpoint on the network: CreateEndpoint and Join.

        Raises InterfaceExists where it has one, and what the drivers raise; then nothing
        of this call is left.
        """
        self._driver.validate(network, options)
        self._clear_leftover(network.name, key, netns, ipam)
        ended("look")
        sandbox = Sandbox(netns.path, netns.identity)
        try:
            endpoint = self.create_endpoint(network, key, sandbox, ipam, options)
            return self.join(network, endpoint, netns, ipam)
        except BaseException:
            undo(self._abandon)
            raise

    def detach(
        self,
        network: str,
        key: EndpointKey,
        netns: Netns | None,
        ipam_of: "Callable[[Endpoint | None], IpamDriver]",
    ) -> None:
        """Leave and DeleteEndpoint; of what is gone already, nothing.

        `ipam_of` gives the driver that takes the addresses back, from the endpoint's
        record or, where there is none, from what else is known. One that needs the link
        is told while there is one. A network that this call has made goes, too.
        """
        try:
            endpoint = self._store.load(network, key)
        except Damaged:
            endpoint = None  # or a later version's, where this one was put back
            self._driver.disown(network, key)
        ipam = ipam_of(endpoint)
        if ipam.needs_link:
            try:
                ipam.release(key)
            finally:
                ended("addresses")
                self.leave(key, endpoint, netns)
            ended("links")
        else:
            self.leave(key, endpoint, netns)
            ended("links")
            ipam.release(key)
            ended("addresses")
        self._forget(network, key, endpoint)
        self._abandon()
        ended("record")

    def endpoint(self, network: str, key: EndpointKey) -> Endpoint | None:
        """The endpoint's record; None where there is none, or one that makes no sense.

        Raises StateFailure where it cannot be read, or what only it tells of would be left.
        """
        try:
            return self._store.load(network, key)
        except Damaged:
            return None  # the kernel and the allocations tell the rest

    def check(
        self,
        network: Network,
        key: EndpointKey,
        netns: Netns,
        ipam: "IpamDriver",
        attachment: Attachment,
    ) -> None:
        """Compare record, previous result and kernel. Raises Drifted with every difference."""
        endpoint = self._store.load(network.name, key)
        found = self._driver.drift(network, key, endpoint, attachment, netns)
        leases = attachment.leases if endpoint is None else endpoint.addressing.leases
        found += ipam.drift(key, leases)
        if found:
            raise Drifted(
                f'{key} on network "{network.name}" has drifted: ' + "; ".join(map(str, found)),
                details="DEL and ADD the attachment to make it anew",
            )

    def collect(
        self,
        network: str,
        valid: "Collection[EndpointKey]",
        ipam_of: "Callable[[Endpoint | None], IpamDriver]",
        grace_seconds: int = 0,
    ) -> None:
        """Remove every endpoint that is not valid, then what is left without an endpoint.

        Not endpoints that are younger than the grace: the list of the valid may be older. A
        reboot ends the grace, since it ended the container.
        Goes on past failures and raises them together at the end.
        """
        failures: list[Error] = []
        for key in self._store.keys(network):
            if key not in valid:
                attempt(failures, self._collect_endpoint, network, key, ipam_of, grace_seconds)
        attempt(failures, self._collect_leftovers, network, valid)
        attempt(failures, lambda: ipam_of(None).collect(valid))
        attempt(failures, self._store.remove_half_written, network, grace_seconds)
        raise_all(failures)

    def check_status(self, network: Network, ipam: "IpamDriver") -> None:
        """Raise NotAvailable unless the network can take another endpoint."""
        try:
            self._driver.check_status(network)
            with self._store.lock(network.name):
                pass
            ipam.check_status()
        except StateFailure as error:
            raise NotAvailable(error.msg, details=error.details) from None

    def delete_network(self, network: Network) -> None:
        """Remove what the network's endpoints shared. Raises NotAvailable while it has any."""
        with self._store.lock(network.name):
            keys = self._store.keys(network.name)
            if keys:
                raise NotAvailable(
                    f'network "{network.name}" has {len(keys)} endpoints, {keys[0]} among them'
                )
            self._driver.delete_network(network)

    def _collect_endpoint(
        self,
        network: str,
        key: EndpointKey,
        ipam_of: "Callable[[Endpoint | None], IpamDriver]",
        grace_seconds: int,
    ) -> None:
        """Remove an endpoint that is not valid, unless it is younger than the grace."""
        endpoint = self.endpoint(network, key)
        gone = endpoint is not None and is_of_another_boot(endpoint.sandbox.identity)
        if gone or not self._store.is_young(network, key, grace_seconds):
            netns = find_netns(endpoint.sandbox.netns) if endpoint else None
            self.detach(network, key, netns, ipam_of)

    def _collect_leftovers(self, network: str, valid: "Collection[EndpointKey]") -> None:
        """What no record tells of; under the lock, since some of it is there before its parent."""
        with self._store.lock_of_parents():
            self._driver.collect(network, lambda: {*valid, *self._store.keys(network)})

    def _establish(self, network: Network, endpoint: Endpoint) -> Endpoint:
        """Record the endpoint, then make what it stands on; of its parents those that are ours."""
        leases = endpoint.addressing.leases
        if not endpoint.parents:
            self._store.save(endpoint)
            self._make(network, leases)
            return endpoint
        with self._store.lock_of_parents():
            ours = tuple(name for name in endpoint.parents if self._makes(name, endpoint))
            endpoint = endpoint.replace(parents=ours)
            self._store.save(endpoint)
            self._make(network, leases)
        return endpoint

    def _make(self, network: Network, leases: tuple[Lease, ...]) -> None:
        if self._driver.create_network(network, leases):
            self._made = network

    def _makes(self, parent: str, endpoint: Endpoint) -> bool:
        """Whether a parent link is to be made, or was by us: not one that was there before."""
        return link.find(Socket(), parent) is None or self._store.shares_parent(parent, endpoint)

    def _address(self, network: Network, endpoint: Endpoint, ipam: "IpamDriver") -> Endpoint:
        """RequestAddress, of a driver that needs the link; the endpoint with its addresses."""
        addressing = self._driver.complete(network, ipam.request(endpoint.key))
        endpoint = endpoint.replace(addressing=addressing)
        self._store.save(endpoint)
        self.create_network(network, addressing.leases)
        return endpoint

    def _forget(self, network: str, key: EndpointKey, endpoint: Endpoint | None) -> None:
        """Remove the record, and before it the parent links that nobody else stands on."""
        if endpoint is None or not endpoint.parents:
            self._store.remove(network, key)
            return
        with self._store.lock_of_parents():
            shares = self._store.shares_parent
            ours = [name for name in endpoint.parents if not shares(name, endpoint)]
            for name in ours:
                link.delete_if_present(Socket(), name)
            if ours:
                self._driver.collect(network, lambda: self._store.keys(network))
            self._store.remove(network, key)

    def _abandon(self) -> None:
        """Remove the network that this call has made, unless somebody else uses it by now."""
        if self._made is None:
            return
        with self._store.lock(self._made.name):
            if not self._store.keys(self._made.name):
                self._driver.delete_network(self._made)
        self._made = None

    def _clear_leftover(
        self, network: str, key: EndpointKey, netns: Netns, ipam: "IpamDriver"
    ) -> None:
        """Undo what a killed attach of the same endpoint left; refuse a name that is taken."""
        if self._driver.joined(key, netns):
            raise InterfaceExists(
                f'interface "{key.ifname}" already exists in "{netns.path}"',
                details="choose another CNI_IFNAME, or DEL the attachment that has it",
            )
        if self.endpoint(network, key) is not None:
            self.detach(network, key, netns, lambda _: ipam)


def _request(ipam: "IpamDriver", key: EndpointKey) -> Addressing:
    """RequestAddress for an endpoint without record, whatever a killed attach claimed for it."""
    try:
        return ipam.request(key)
    except AddressInUse:
        ipam.release(key)
        return ipam.request(key)
