"""Overlay networks of this host: whether VXLAN packets are taken from members only, and whether
what encrypted ones are made of is there.
"""

import json
from collections.abc import Iterable, Iterator

from cnm_core.cli import output
from cnm_core.cli.conflists import Conflist
from cnm_core.cli.doctor.finding import ERROR, OK, WARNING, Finding
from cnm_core.config.overlay import OverlayConfig, overlay_config
from cnm_core.drivers import overlay
from cnm_core.drivers.returned import CutOff
from cnm_core.drivers.vtep_guard import Guard
from cnm_core.errors import Error
from cnm_core.kernel import link
from cnm_core.kernel.netlink import Socket
from cnm_core.store.endpoints import EndpointStore
from cnm_core.store.membership import Membership, View, open_membership

_AREA = "overlays"


def findings(networks: Iterable[Conflist]) -> Iterator[Finding]:
    """What guards each overlay network that has its device here."""
    for network in networks:
        if network.is_overlay:
            try:
                yield from _findings(network)
            except Error as error:
                yield Finding(_AREA, network.name, WARNING, error.msg, error.details)


def _findings(network: Conflist) -> Iterator[Finding]:
    options = overlay_config(network.driver_config)
    membership = open_membership(options, output.passed_over, json.loads)
    view = membership.known(network.name)
    if view is None or link.find(Socket(), overlay.device_name(view.network)) is None:
        return
    vteps = overlay.others(view, membership.cluster.members())
    yield from _unknown(membership, view)
    if view.network.encrypted:
        yield _tunnel(options, membership, view)
    guard, device = Guard(), overlay.device_of(view)
    drift = guard.drift(device, vteps)
    if not drift:
        message = f"takes packets from members only, {len(vteps)} beside this host"
        yield Finding(_AREA, network.name, OK, message)
        return

    def mend() -> str:
        guard.admit(device, network.name, vteps)
        return f'had packets of network "{network.name}" taken from members only'

    message = "packets are not taken from members only, or not from all: "
    message += "; ".join(map(str, drift))
    advice = "cnm doctor --fix makes the rules anew; a running agent does so by itself"
    yield Finding(_AREA, network.name, ERROR, message, advice, mend)


def _tunnel(options: OverlayConfig, membership: Membership, view: View) -> Finding:
    """The finding for what an encrypted network goes through."""
    network = view.network
    tunnel = overlay.tunnel_of(Socket(), options, membership, network.encrypted)
    drift = tunnel.drift(view.member)
    name = overlay.tunnel_name(network)
    if not drift:
        return Finding(_AREA, network.name, OK, f"goes to other hosts through {name}")

    def mend() -> str:
        tunnel.ensure(view.member)
        tunnel.reconcile(view.member)
        return f"made what was missing of {name}"

    message = f"is cut off from other hosts, or from some: {'; '.join(map(str, drift))}"
    advice = "cnm doctor --fix mends it; a running agent does so within a minute"
    return Finding(_AREA, network.name, ERROR, message, advice, mend)


def _unknown(membership: Membership, view: View) -> Iterator[Finding]:
    """The endpoints of this host that the cluster does not know, or not at its VTEP."""
    name, cluster = view.network.name, membership.cluster
    published = cluster.endpoints(name, membership.node)
    known = {each.key for each in published if each.vtep == view.vtep}
    records = EndpointStore(membership.state_dir)
    for key in records.keys(name):
        endpoint = records.load(name, key)
        if key in known or endpoint is None:
            continue
        for lease in endpoint.addressing.leases:
            ip = lease.address.ip
            holder = cluster.holder(name, ip)
            if holder in ("", f"{membership.node}/{key}"):
                message = "the cluster does not know where it is, and no other host reaches it"
                advice = "a running agent makes it known, and so does the next ADD on its network"
            else:
                message, advice = str(CutOff(key, ip, holder)), overlay.CUT_OFF_ADVICE
            yield Finding(_AREA, f"{name} {key}", ERROR, message, advice)
