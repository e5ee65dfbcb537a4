"""How the container's end of an endpoint differs from what was made, whatever driver made it."""

from cnm_core.drivers.container_end import resolved
from cnm_core.inet import format_mac
from cnm_core.kernel import address, link, route
from cnm_core.kernel.netns import Netns
from cnm_core.model import Attachment, Drift, EndpointKey, Route, gateways


def container_drift(
    key: EndpointKey, kind: str, attachment: Attachment, netns: Netns
) -> list[Drift]:
    """How a link of the sandbox differs from the attachment: kind, MAC, addresses, routes."""
    inside = netns.socket()
    container_end = link.find(inside, key.ifname)
    what = f"container end {key.ifname}"
    if container_end is None:
        return [Drift(what, f"a {kind}", "no such link")]
    if container_end.kind != kind:
        return [Drift(what, f"a {kind}", container_end.kind or "another link")]
    found = []
    if attachment.leases and not container_end.up:
        found.append(Drift(what, "up", "down"))
    # Whatever the path of the sandbox was: runtimes may give another by now.
    own = [each.sandbox != "" and each.name == key.ifname for each in attachment.interfaces]
    for interface, is_own in zip(attachment.interfaces, own, strict=True):
        if is_own and interface.mac and interface.mac.lower() != format_mac(container_end.mac):
            found.append(Drift(f"MAC of {what}", interface.mac, format_mac(container_end.mac)))
    present = [each.address for each in address.list_of(inside, container_end.index)]
    for lease, owner in zip(attachment.leases, attachment.lease_interfaces, strict=True):
        # Without an interface it is of the one that there is (results before 0.3.0).
        of_this = owner is None or (0 <= owner < len(own) and own[owner])
        if of_this and lease.address not in present:
            has = ", ".join(map(str, present)) or "no address"
            found.append(Drift(f"addresses of {what}", str(lease.address), has))
    first = gateways(attachment.leases)
    routes = route.list_of(inside, container_end.index) if attachment.routes else []
    for wanted in attachment.routes:
        meant = resolved(wanted, first)
        if not any(_serves(each, meant) for each in routes):
            found.append(Drift(f"routes of {what}", route.describe(meant), "no such route"))
    return found


def _serves(present: Route, wanted: Route) -> bool:
    """Whether a route of the kernel is the wanted one; default routes may go another way."""
    if present.destination != wanted.destination:
        return False
    if wanted.destination.prefix and wanted.gateway and present.gateway != wanted.gateway:
        return False
    # Results before 1.1.0 say neither table nor priority.
    return wanted.table in (None, present.table) and wanted.priority in (None, present.priority)
