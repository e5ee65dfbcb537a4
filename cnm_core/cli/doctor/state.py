"""What endpoints left behind that are gone: records, addresses, links, elements of nftables.

An endpoint is gone when its network namespace is. An address without an endpoint is left
over when the runtime has no result for it either (libcni keeps one for each attachment it
made, ours and others'), and it is not so young that its ADD may still be on its way.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import time
from typing import Any

from cnm_core.cli.conflists import Conflist, Directory
from cnm_core.cli.doctor.finding import ERROR, WARNING, Finding
from cnm_core.cli.doctor.lacking import Recorded
from cnm_core.cli.plugins import CACHE, environment, find_executable
from cnm_core.cli.pool_use import DEFAULT_DATA, data_dir
from cnm_core.config.network import NetworkConfig
from cnm_core.errors import Error, StateFailure
from cnm_core.inet import parse_ip
from cnm_core.kernel import link, nftables
from cnm_core.kernel.netlink import Socket
from cnm_core.kernel.netns import find_netns
from cnm_core.model import Endpoint, EndpointKey
from cnm_core.schema.plugins import find
from cnm_core.store.endpoints import EndpointStore

AREA = "state"
_STATE = NetworkConfig("x").state_dir
# Where plugins keep records: those that make interfaces, and portmap.
_STORES = ("", "/.portmap")
_ALIAS = "cnm "
_MAPS = (("ip", "ports"), ("ip", "address_ports"), ("ip6", "ports"), ("ip6", "address_ports"))
_SETS = (*_MAPS, ("bridge", "sources"))
_COMMENT_LIMIT = 128  # bytes, beyond which nftables comments are cut
_YOUNG = 60  # seconds
_ADVICE = "stop its container, whose DEL does without it; if there is none, remove it by hand"
_PATIENCE = 120  # seconds


@dataclass
class Survey:
    """What there is of endpoints, by network.

    `live` have a sandbox, of `gone` there is only a record left, and `unsure` are those that
    may live: with a damaged record, or an address so young that its ADD may be under way.
    `mends` has one step for each network with leftovers. `recorded` are the live ones that there is
    a record of.
    """

    networks: dict[str, Conflist]
    path: tuple[str, ...]
    live: dict[str, set[EndpointKey]] = field(default_factory=dict)
    unsure: dict[str, set[EndpointKey]] = field(default_factory=dict)
    gone: set[tuple[str, EndpointKey]] = field(default_factory=set)
    mends: dict[str, Callable[[], str]] = field(default_factory=dict)
    versions: set[int] = field(default_factory=set)
    recorded: list[Recorded] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def known(self, network: str) -> set[EndpointKey]:
        """The endpoints of a network that live, or may."""
        return self.live.get(network, set()) | self.unsure.get(network, set())

    def report(self, network: str, subject: str, message: str) -> None:
        """Note something that is left over, which GC of its network removes."""
        if self.plugins_of(network):
            mend = self.mends.setdefault(network, partial(_collect, self, network))
            advice = "cnm doctor --fix has the network's plugins collect it"
            self.findings.append(Finding(AREA, subject, ERROR, message, advice, mend))
        else:
            advice = f'no plugin of ours is in a file of network "{network}": remove it by hand'
            self.findings.append(Finding(AREA, subject, ERROR, message, advice))

    def plugins_of(self, network: str) -> list[dict[str, Any]]:
        """The network's plugins that are ours and keep something."""
        conflist = self.networks.get(network)
        plugins = conflist.plugins if conflist else ()
        return [each for each in plugins if (own := find(each["type"])) and own.ipam is None]


def survey(directory: Directory, path: tuple[str, ...]) -> Survey:
    """Look at everything; changes nothing."""
    networks, _ = directory.read()
    found = Survey({each.name: each for each in networks}, path)
    # The kernel before records and records before addresses: an ADD goes the other way.
    links, elements = _links(), _elements()
    addresses = list(_addresses(networks))
    _survey_results(found)
    _survey_records(found, _directories(networks, "stateDir", _STATE))
    for name, network, key in links:
        if key is None:
            _survey_bridge(found, name, network)
        elif key not in found.known(network):
            found.report(network, name, f"host end of {key}, an endpoint that is gone")
    for family, name, comment in elements:
        network = comment.partition(" ")[0]
        owners = {f"{network} {key}" for key in found.known(network)}
        cut = len(comment.encode()) >= _COMMENT_LIMIT
        if comment not in owners and not (cut and any(map(comment.__eq__, _cut(owners)))):
            subject = f"nftables {family} cnm {name}"
            found.report(network, subject, f'element of "{comment}", an endpoint that is gone')
    for file, network, owner, age in addresses:
        if owner in found.known(network):
            continue
        if age <= _YOUNG and (network, owner) not in found.gone:
            found.unsure.setdefault(network, set()).add(owner)
        else:
            whose = f"{owner}, an endpoint that is gone" if owner.container_id else "nobody"
            found.report(network, str(file), f"address of {whose}")
    return found


def _cut(owners: set[str]) -> Iterator[str]:
    return (owner.encode()[:_COMMENT_LIMIT].decode("utf-8", "ignore") for owner in owners)


def _survey_bridge(found: Survey, name: str, network: str) -> None:
    if network not in found.networks and not found.live.get(network):
        message = f'bridge of network "{network}", of which there is no file'
        advice = f"if nobody else uses it: ip link delete {name}"
        found.findings.append(Finding(AREA, name, WARNING, message, advice))


def _survey_records(found: Survey, directories: set[str]) -> None:
    for directory in sorted(directories):
        for below in _STORES:
            store = EndpointStore(directory + below)
            for network in _children(Path(directory + below)):
                for key in store.keys(network):
                    _survey_record(found, store, directory, below, network, key)


def _survey_record(
    found: Survey, store: EndpointStore, directory: str, below: str, network: str, key: EndpointKey
) -> None:
    path = f"{directory}{below}/{network}/{key}"
    try:
        endpoint = store.load(network, key)
    except StateFailure as error:
        # Whether its endpoint lives cannot be told, so that nothing of it may be collected.
        found.unsure.setdefault(network, set()).add(key)
        found.findings.append(Finding(AREA, path, ERROR, error.msg, _ADVICE))
        return
    if endpoint is None:
        return  # removed since the directory was listed
    if _is_alive(endpoint) and (network, key) not in found.gone:
        found.live.setdefault(network, set()).add(key)
        found.versions |= {lease.address.version for lease in endpoint.addressing.leases}
        found.recorded.append(Recorded(directory, store, endpoint))
    else:
        found.gone.add((network, key))
        found.live.get(network, set()).discard(key)
        sandbox = endpoint.sandbox.netns
        found.report(network, path, f"{key} is gone: its network namespace {sandbox} is")


def _is_alive(endpoint: Endpoint) -> bool:
    netns = find_netns(endpoint.sandbox.netns)
    return netns is not None and endpoint.sandbox.identity in ("", netns.identity)


def _survey_results(found: Survey) -> None:
    """The attachments that runtimes have results of, where their namespace may be there."""
    for path in filter(Path.is_file, CACHE.glob("*")):
        try:
            document = json.loads(path.read_bytes())
            network, key = (
                document["networkName"],
                EndpointKey(document["containerId"], document["ifName"]),
            )
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue  # no result of libcni's
        netns = document.get("netns")
        if not netns or find_netns(str(netns)):
            found.live.setdefault(str(network), set()).add(key)


def _links() -> list[tuple[str, str, EndpointKey | None]]:
    """(name, network, endpoint) of each link with an alias of ours; bridges have no endpoint."""
    found: list[tuple[str, str, EndpointKey | None]] = []
    for each in link.list_links(Socket()):
        if each.alias.startswith(_ALIAS):
            network, _, owner = each.alias.removeprefix(_ALIAS).partition(" ")
            container_id, colon, ifname = owner.partition(":")
            found.append((each.name, network, EndpointKey(container_id, ifname) if colon else None))
    return found


def _elements() -> list[tuple[str, str, str]]:
    """(family, set, comment) of each element that belongs to an endpoint."""
    try:
        socket = nftables.open_socket()
        return [
            (family, name, element.comment)
            for family, name in _SETS
            for element in nftables.elements(socket, family, "cnm", name)
        ]
    except Error:
        return []  # no nftables, which is a finding about the kernel


def _addresses(networks: list[Conflist]) -> Iterator[tuple[Path, str, EndpointKey, float]]:
    """(file, network, owner, age in seconds) of each address in host-local's files."""
    for directory in sorted({DEFAULT_DATA, *map(data_dir, networks)}):
        for network in _children(Path(directory)):
            for file in filter(Path.is_file, sorted(Path(directory, network).iterdir())):
                try:
                    parse_ip(file.name)
                    content, since = file.read_bytes(), file.stat().st_mtime
                except (ValueError, OSError):
                    continue  # not an address, or one that was released meanwhile
                container_id, _, ifname = content.decode("utf-8", "replace").partition("\r\n")
                yield file, network, EndpointKey(container_id, ifname), time() - since


def _directories(networks: list[Conflist], key: str, default: str) -> set[str]:
    values = [plugin.get(key) for each in networks for plugin in each.plugins]
    return {default, *(each for each in values if isinstance(each, str) and each)}


def _children(directory: Path) -> list[str]:
    try:
        return sorted(
            each.name for each in directory.iterdir() if each.is_dir() and each.name[0] != "."
        )
    except OSError:
        return []


def _collect(found: Survey, network: str) -> str:
    """Run GC of the network's plugins, as a runtime would, with the endpoints that live."""
    valid = [
        {"containerID": key.container_id, "ifname": key.ifname}
        for key in sorted(found.known(network), key=str)
        if key.ifname  # what an old Go plugin wrote has none, and GC must be told one
    ]
    plugins = found.plugins_of(network)
    for plugin in plugins:
        config = {
            **plugin,
            "cniVersion": "1.1.0",  # the first that has GC
            "name": network,
            "cni.dev/valid-attachments": valid,
        }
        _call(plugin["type"], config, found.path)
    names = ", ".join(plugin["type"] for plugin in plugins)
    return f'had {names} of network "{network}" collect what is left over'


def _call(name: str, config: dict[str, Any], path: tuple[str, ...]) -> None:
    executable = find_executable(name, path)
    if executable is None:
        raise Error(f'executable "{name}" is in no directory of {":".join(path)}')
    done = subprocess.run(
        [executable],
        input=json.dumps(config).encode(),
        env=environment("GC", path),
        capture_output=True,
        timeout=_PATIENCE,
        check=False,
    )
    if done.returncode:
        answer = done.stdout.decode("utf-8", "replace").strip()
        raise Error(f"GC of {name} failed: {' '.join(answer.split())}")
