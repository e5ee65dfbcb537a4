"""A host's place in a cluster, as it last knew it: what saves an ADD all questions but one.

Files below ``<state directory>/.overlay``, each of which may be removed at any time except
``.pending``, where releases wait that the store was not there for:

- ``<network>``: membership, network and blocks with their revisions, which the
  transaction of an ADD has as its conditions
- ``.pending/<network>/<key>``: an endpoint that is gone here and not yet in the store
"""

from posix import rmdir, uname

from cnm_core import json
from cnm_core.config.overlay import OverlayConfig, StoreConfig
from cnm_core.errors import Error, InvalidNetworkConfig, NotAvailable, StateFailure
from cnm_core.inet import Address, format_ip, parse_address, parse_ip
from cnm_core.model import EndpointKey
from cnm_core.record import Record
from cnm_core.store import files
from cnm_core.store.cluster import Cluster
from cnm_core.store.entries import Block, Member, SharedNetwork, decode_network, encode_network
from cnm_core.store.shared import Unreachable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cnm_core.store.shared import SharedStore


_opened: "dict[tuple[StoreConfig, str, str | None], Membership]" = {}


class View(Record):
    """What a host knows of itself and a network.

    `returned` is one that was fenced since, and may have endpoints that nobody knows. `seen`
    is the revision up to which its kernel has been given others' endpoints without an agent.
    """

    member: Member
    network: SharedNetwork
    blocks: tuple[Block, ...] = ()
    returned: bool = False
    seen: int = 0

    @property
    def vtep(self) -> bytes:
        """This host's VTEP on the network."""
        return self.vtep_of(self.member)

    def vtep_of(self, member: Member) -> bytes:
        """Where the network's frames for a host go: of an encrypted one within the tunnel."""
        if not self.network.encrypted:
            return member.vtep
        from cnm_core.store.tunnels import tunnel_ip

        return tunnel_ip(member.vtep)

    def blocks_of(self, subnet: Address) -> tuple[Address, ...]:
        """The host's blocks in a subnet."""
        return tuple(each.address for each in self.blocks if each.address.ip in subnet)


class Membership:
    """One host in one cluster; `directory` is the state directory of its plugins."""

    def __init__(self, cluster: Cluster, directory: str, node: str) -> None:
        self.cluster = cluster
        self.node = node
        self.state_dir = directory
        self._directory = directory + "/.overlay"

    def view(self, member: Member, network: SharedNetwork) -> View:
        """What is known, if it is of this very member and network; else what the store says.

        Joins the cluster and makes the network where that has not been done yet.
        """
        known = self.known(network.name)
        if known is not None and _means(known, member, network):
            return known
        return self.look(member, network)

    def look(self, member: Member, network: SharedNetwork) -> View:
        """What the store says; joins the cluster and makes the network where it is missing.

        Raises InvalidNetworkConfig where the underlay leaves less than the network's MTU.
        """
        with self._lock(network.name):
            self.cluster.check_schema()
            present = self.cluster.join(member)
            _refuse_mtu(network, present)
            made = self.cluster.create_network(network, present.mtu)
            _refuse_mtu(made, present)
            known = self.known(network.name)
            returned = known is not None and (
                known.returned or known.member.revision != present.revision
            )
            blocks = self.cluster.blocks(network.name, self.node)
            seen = known.seen if known else 0
            return self._keep(View(present, made, blocks, returned, seen))

    def rejoin(self, view: View, member: Member) -> View | None:
        """The view of a host that has joined anew; None where the network is there no more."""
        with self._lock(view.network.name):
            present = self.cluster.network(view.network.name)
            if present is None or present.replace(revision=0) != view.network.replace(revision=0):
                return None
            blocks = self.cluster.blocks(present.name, self.node)
            return self._keep(View(member, present, blocks, returned=True, seen=view.seen))

    def settle(self, view: View) -> None:
        """Note that all endpoints of a host that has returned are known again."""
        with self._lock(view.network.name):
            known = self.known(view.network.name)
            if known is not None and known.member == view.member:
                self._keep(known.replace(returned=False))

    def see(self, network: str, revision: int) -> None:
        """Note up to where the kernel has been given the endpoints of other hosts."""
        with self._lock(network):
            known = self.known(network)
            if known is not None and known.seen < revision:
                self._keep(known.replace(seen=revision))

    def claim_block(self, view: View, subnet: Address) -> View:
        """The view with another block of a subnet; of many who need one at once one claims it."""
        with self._lock(view.network.name):
            known = self.known(view.network.name)
            if known is not None and known.blocks_of(subnet) != view.blocks_of(subnet):
                return known
            held = self.cluster.blocks(view.network.name, self.node)
            if not set(held) <= set(view.blocks):
                return self._keep(view.replace(blocks=held))  # what a kill left of their release
            block = self.cluster.claim_block(view.network.name, subnet, view.member)
            return self._keep(view.replace(blocks=(*view.blocks, block)))

    def release_blocks(self, view: View) -> None:
        """Give back all blocks; an endpoint that is being made finds that out and looks again."""
        with self._lock(view.network.name):
            self._keep(view.replace(blocks=()))
            for block in view.blocks:
                self.cluster.release_block(view.network.name, block)

    def known(self, network: str) -> View | None:
        """What was last known of a network, None where that is nothing."""
        content = files.read_text(f"{self._directory}/{network}")
        try:
            return _decode(network, self.node, content) if content else None
        except (ValueError, KeyError, TypeError, AttributeError, StateFailure):
            return None  # of another version: the store says it again

    def networks(self) -> list[str]:
        """The networks of which something is known."""
        return [name for name in files.names(self._directory) if name[0] != "."]

    def forget(self, network: str) -> None:
        """Have the next call look at the store."""
        files.remove(f"{self._directory}/{network}")

    def remove(self, network: str) -> None:
        """Have no file of a network any more, but for releases that wait."""
        self.forget(network)
        files.remove(f"{self._directory}/.{network}.lock")
        try:
            rmdir(f"{self._directory}/.pending/{network}")
        except OSError:
            pass  # nothing has ever waited, or something does

    def is_followed(self) -> bool:
        """Whether an agent on this host keeps the kernel's entries as the store has them."""
        return files.Lock(f"{self._directory}/.agent").is_held()

    def followed(self) -> files.Lock:
        """What an agent enters while it keeps the kernel's entries."""
        files.make_private(self._directory)
        return files.Lock(f"{self._directory}/.agent")

    def withdraw(
        self, network: str, key: EndpointKey, free: "Callable[[EndpointKey], list[bytes]]"
    ) -> None:
        """Have this host and the store forget an endpoint, the store when it is there again.

        `free` frees its addresses here and says which they were: all that the store has of
        it then goes by one request, unless a kill left only some of them.
        """
        path = self._pending(network, key)
        files.make_private(path.rpartition("/")[0])
        files.write_whole(path, "")
        try:
            ips, view = free(key), self.known(network)
            whole = view is not None and len(ips) == len(view.network.subnets)
            self.cluster.withdraw(network, self.node, key, ips if whole else ())
        except (Unreachable, StateFailure):
            return  # it waits in the journal
        except (NotAvailable, InvalidNetworkConfig) as error:
            # The store refuses this host, or what it would show it is not there: it waits, too.
            self.cluster.ignored(error)
            return
        files.remove(path)

    def replay(self) -> None:
        """Do what waits in the journal. Raises Unreachable.

        Under a lock, and only while it waits there: a DEL may be doing it itself, and an
        endpoint that came back after that is not to be withdrawn again.
        """
        if not any(self.pending()):
            return
        with files.Lock(f"{self._directory}/.pending/.lock"):
            for network, key in list(self.pending()):
                self._replay(network, key)

    def _replay(self, network: str, key: EndpointKey) -> None:
        path = self._pending(network, key)
        self.cluster.withdraw(network, self.node, key, (), lambda: files.modified(path) is not None)
        files.remove(path)

    def pending(self) -> "Iterator[tuple[str, EndpointKey]]":
        """The releases that wait: (network, endpoint)."""
        for network in files.names(f"{self._directory}/.pending"):
            if network[0] != ".":
                for name in files.names(f"{self._directory}/.pending/{network}"):
                    container_id, _, ifname = name.partition(":")
                    yield network, EndpointKey(container_id, ifname)

    def _pending(self, network: str, key: EndpointKey) -> str:
        return f"{self._directory}/.pending/{network}/{key}"

    def _lock(self, network: str) -> files.Lock:
        """For changes of what is known of a network."""
        files.make_private(self._directory)
        return files.Lock(f"{self._directory}/.{network}.lock")

    def _keep(self, view: View) -> View:
        files.replace(f"{self._directory}/{view.network.name}", _encode(view))
        return view


def open_membership(
    options: OverlayConfig,
    ignored: "Callable[[Error], None]",
    loads: "Callable[[str], object]" = json.loads,
) -> Membership:
    """This host in the cluster of a configuration. Raises InvalidNetworkConfig, StateFailure.

    `ignored` is told of entries of the store that are passed over. `loads` reads JSON: a
    process that lives longer has a faster one.
    """
    cluster = Cluster(_open_store(options.store, loads), ignored)
    return Membership(cluster, options.state_dir, options.node or node_name())


def membership_of(
    options: OverlayConfig, ignored: "Callable[[Error], None]" = lambda _: None
) -> Membership:
    """What `open_membership` gives, once: network driver and IPAM driver share a connection."""
    key = options.store, options.state_dir, options.node
    if key not in _opened:
        _opened[key] = open_membership(options, ignored)
    return _opened[key]


def without_store(options: OverlayConfig) -> Membership:
    """This host where the configuration does not tell the store: releases wait in the journal."""
    from cnm_core.store.etcd import Access, EtcdStore

    cluster = Cluster(EtcdStore(Access(()), ""), lambda _: None)
    return Membership(cluster, options.state_dir, options.node or node_name())


def node_name() -> str:
    """This host's name, where the configuration gives none."""
    return uname().nodename


def _open_store(options: StoreConfig, loads: "Callable[[str], object]") -> "SharedStore":
    if not options.endpoints:
        from cnm_core.store.shared_files import FileStore

        return FileStore(options.directory)
    from cnm_core import http
    from cnm_core.store.etcd import Access, EtcdStore
    from cnm_core.tls import Trust

    trust = Trust(options.ca_file or "", options.cert_file or "", options.key_file or "")
    servers = tuple(
        server.replace(trust=trust) if server.trust else server
        for server in map(http.parse_url, options.endpoints)
    )
    access = Access(servers, options.user, _password(options))
    return EtcdStore(access, f"cnm/v1/{options.cluster}/", loads)


def _password(options: StoreConfig) -> str:
    if options.password_file is None:
        return ""
    try:
        content = files.read_text(options.password_file, links=True)
    except StateFailure as error:
        raise InvalidNetworkConfig(
            f"store.passwordFile: {error.msg}", details="put the password in a file of its own"
        ) from None
    if content is None:
        raise InvalidNetworkConfig(
            f'store.passwordFile: there is no file "{options.password_file}"',
            details="put the password there, readable by root only",
        )
    return content.strip()


def _means(known: View, member: Member, network: SharedNetwork) -> bool:
    """Whether what is known is what a configuration says, where it says something."""
    same = known.network.replace(revision=0)
    wanted = network.replace(vni=network.vni or same.vni, mtu=network.mtu or same.mtu)
    return known.member.replace(revision=0) == member and same == wanted


def _refuse_mtu(network: SharedNetwork, member: Member) -> None:
    left = network.leaves(member.mtu)
    if network.mtu > left:
        raise InvalidNetworkConfig(
            f'mtu: is {network.mtu} on network "{network.name}", and the underlay of this '
            f'host, "{member.node}", leaves {left}',
            details="raise the MTU of the underlay, or make the network with a smaller one",
        )


def _encode(view: View) -> str:
    return json.dumps(
        {
            "vtep": format_ip(view.member.vtep),
            "underlayMtu": view.member.mtu,
            "joined": view.member.revision,
            "network": encode_network(view.network),
            "made": view.network.revision,
            "blocks": [[str(each.address), each.revision] for each in view.blocks],
            "returned": view.returned,
            "seen": view.seen,
        }
    )


def _decode(network: str, node: str, content: str) -> View:
    fields = json.loads(content)
    if type(fields) is not dict:
        raise ValueError("not an object")
    return View(
        member=Member(
            node, parse_ip(fields["vtep"]), int(fields["underlayMtu"]), int(fields["joined"])
        ),
        network=decode_network(network, fields["network"], int(fields["made"])),
        blocks=tuple(Block(parse_address(text), int(since)) for text, since in fields["blocks"]),
        returned=fields.get("returned") is True,
        seen=int(fields.get("seen", 0)),
    )
