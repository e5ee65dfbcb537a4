"""Masquerade and published ports."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import networks
from peers import OURS, Attachment, Peer, container_id
from trial import Chain, Step, Trial
from world import Host

from cases.registry import case


@case("bridge", "host-local")
def masq(trial: Trial) -> None:
    """bridge_gw with ipMasq, each peer with the backend it takes by itself."""
    _time(trial, masquerading)


@case("bridge", "host-local")
def masq_nft(trial: Trial) -> None:
    """bridge_gw with ipMasq through nftables."""
    _time(trial, masquerading, "nftables")


@case("bridge", "host-local", "portmap")
def ports(trial: Trial) -> None:
    """masq with two published ports: our bridge alone, the others' followed by their portmap."""
    _time(trial, publishing)


@case("bridge", "host-local", "portmap")
def ports_nft(trial: Trial) -> None:
    """ports through nftables."""
    _time(trial, publishing, "nftables")


@case("bridge", "host-local", "portmap")
def portmap(trial: Trial) -> None:
    """portmap's share of bridge and portmap, each peer with the backend it takes by itself."""
    _time(trial, chaining, only="portmap")


@case("bridge", "host-local", "portmap")
def portmap_nft(trial: Trial) -> None:
    """portmap through nftables."""
    _time(trial, chaining, "nftables", only="portmap")


@case("bridge", "host-local", "portmap")
def cold(trial: Trial) -> None:
    """ports on a host where no plugin has run since it booted."""
    _time_cold(trial)


@case("bridge", "host-local", "portmap")
def cold_nft(trial: Trial) -> None:
    """cold through nftables."""
    trial.keep_supporting(partial(publishing, backend="nftables"), _not_nftables)
    _time_cold(trial, backend="nftables")


@case("bridge", "host-local", "portmap")
def absent(trial: Trial) -> None:
    """DEL, as in ports, of a container that was never added."""
    trial.attach(publishing, ("DEL",))


def masquerading(peer: Peer, data: Path, backend: str = "", **keys: Any) -> Chain:
    """A container whose traffic to elsewhere is masqueraded."""
    chosen = {"ipMasqBackend": backend} if backend else {}
    return [Step("bridge", networks.gateway(peer, data, ipMasq=True, **chosen, **keys))]


def chaining(peer: Peer, data: Path, backend: str = "", number: int = 0, **keys: Any) -> Chain:
    """The same with two ports that portmap publishes."""
    chosen = {"backend": backend} if backend else {}
    after = networks.network(peer, "portmap", **networks.published(number), **chosen) | keys
    return [*masquerading(peer, data, backend, **keys), Step("portmap", after)]


def publishing(peer: Peer, data: Path, backend: str = "", number: int = 0, **keys: Any) -> Chain:
    """The same in as few processes as the peer can."""
    if peer.label == OURS:
        return masquerading(peer, data, backend, **networks.published(number), **keys)
    return chaining(peer, data, backend, number, **keys)


def _time(
    trial: Trial, steps_for: Callable[..., Chain], backend: str = "", *, only: str = ""
) -> None:
    chosen = partial(steps_for, backend=backend)
    trial.keep_supporting(chosen, _not_nftables if backend == "nftables" else None)
    trial.attach(chosen, only=only)


def _time_cold(trial: Trial, backend: str = "") -> None:
    """Time each call on a host made for it."""
    namespaces = trial.namespace_of_each()
    for number, peer in trial.rotation(max(1, trial.rounds // 3), warm_up=1):
        steps = publishing(peer, trial.world.directory(), backend)
        attachment = Attachment(container_id(number + 1), namespaces[peer])
        host = trial.world.host("cold")
        row = trial.case if number >= 0 else None
        for verb in ("ADD", "DEL"):
            trial.chain(peer, verb, steps, attachment, host, row=row)
        trial.world.drop_hosts("cold")


def _not_nftables(host: Host) -> str:
    tables = host.run(["nft", "list", "tables"])
    if "table ip nat" in tables:
        return "uses iptables all the same"
    return "" if tables else "makes no nftables table"
