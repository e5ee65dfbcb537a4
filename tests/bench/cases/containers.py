"""Single containers, and many at once."""

from functools import partial
from pathlib import Path

import networks
from networks import Config
from peers import Peer
from trial import Trial, alone

from cases.registry import case


@case("loopback")
def loopback(trial: Trial) -> None:
    """lo up and down again."""
    trial.attach(alone("loopback", lambda peer, data: networks.network(peer, "loopback")))


@case("host-local")
def hostlocal(trial: Trial) -> None:
    """host-local by itself, as another plugin's delegate."""
    trial.attach(alone("host-local", networks.addresses))


@case("bridge")
def bridge_l2(trial: Trial) -> None:
    """a bridge without addresses."""
    trial.attach(alone("bridge", partial(networks.bridge, ipam={})))


@case("bridge", "host-local")
def bridge(trial: Trial) -> None:
    """a bridge with addresses that is no gateway."""
    trial.attach(alone("bridge", networks.bridge), ("ADD", "CHECK", "DEL"))


@case("bridge", "host-local")
def bridge_gw(trial: Trial) -> None:
    """a bridge that is the containers' gateway."""
    trial.attach(alone("bridge", networks.gateway), ("ADD", "CHECK", "DEL"))


@case("bridge", "host-local")
def bridge_warm(trial: Trial) -> None:
    """bridge_gw on a bridge that stays up: a node with other containers."""
    _keep_bridges_up(trial)
    trial.attach(alone("bridge", networks.gateway))


@case("bridge", "host-local")
def dual(trial: Trial) -> None:
    """bridge_gw with IPv4 and IPv6."""
    trial.attach(alone("bridge", partial(networks.gateway, dual=True)))


@case("bridge", "host-local")
def dual_warm(trial: Trial) -> None:
    """dual on a bridge that stays up."""
    _keep_bridges_up(trial)
    trial.attach(alone("bridge", partial(networks.gateway, dual=True)))


@case("macvlan", "host-local")
def macvlan(trial: Trial) -> None:
    """a macvlan in bridge mode."""
    parent = networks.MACVLAN_PARENT
    for peer in trial.peers:
        host = trial.host(peer)
        host.run(["ip", "link", "add", parent, "up", "type", "veth", "peer", "name", "uplink0"])
        host.run(["ip", "link", "set", "uplink0", "up"])

    def config(peer: Peer, data: Path) -> Config:
        ipam = networks.host_local(peer, data)
        return networks.network(peer, "macvlan", master=parent, mode="bridge", ipam=ipam)

    trial.attach(alone("macvlan", config))


@case("ptp", "host-local")
def ptp(trial: Trial) -> None:
    """a veth pair routed by the host."""

    def config(peer: Peer, data: Path) -> Config:
        return networks.network(peer, "ptp", ipam=networks.host_local(peer, data))

    trial.attach(alone("ptp", config))


def _keep_bridges_up(trial: Trial) -> None:
    """Give each peer a bridge with a port whose carrier does not go."""
    for peer in trial.peers:
        host, name = trial.host(peer), networks.bridge_name(peer)
        host.run(["ip", "link", "add", name, "up", "type", "bridge"])
        host.run(["ip", "link", "add", "keep", "up", "master", name, "type", "veth", "peer", "end"])
        host.run(["ip", "link", "set", "end", "up"])


@case("bridge", "host-local")
def par20(trial: Trial) -> None:
    """bridge_gw for 20 containers at the same time."""
    trial.attach_at_once("bridge", networks.gateway, 20, max(1, trial.rounds // 3))


@case("bridge", "host-local")
def par50(trial: Trial) -> None:
    """bridge_gw for 50 containers at the same time."""
    trial.attach_at_once("bridge", networks.gateway, 50, max(1, trial.rounds // 3))
