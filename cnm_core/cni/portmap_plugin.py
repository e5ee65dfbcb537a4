"""The verbs of the portmap plugin, which is chained after the one that made the interface."""

from cnm_core import json
from cnm_core.cni import result
from cnm_core.cni.invocation import Invocation, valid_attachments
from cnm_core.cni.ports import published_ports
from cnm_core.config.network import network_config
from cnm_core.config.ports import PortmapConfig, portmap_config
from cnm_core.drivers.portmap import Portmap
from cnm_core.errors import (
    Damaged,
    Drifted,
    Error,
    InvalidNetworkConfig,
    KernelRefused,
    NotAvailable,
    UnsupportedField,
    attempt,
    raise_all,
    undo,
)
from cnm_core.model import Addressing, Attachment, Endpoint, EndpointKey, Lease, Sandbox
from cnm_core.store.endpoints import EndpointStore


class PortmapPlugin:
    """ADD, DEL, CHECK, GC and STATUS for published ports."""

    def add(self, call: Invocation) -> dict[str, object]:
        """ADD: the ports lead to the interface; the result is the previous one."""
        options = portmap_config(call.config)
        refuse_foreign(options)
        document, previous = _previous(call)
        endpoint = _endpoint(call, previous)
        if endpoint is None:
            return document
        state_dir = _state_dir(call)
        store = _store(state_dir)
        self._forget(store, call.network, call.key)
        store.save(endpoint)
        try:
            Portmap().publish(endpoint, state_dir, snat=options.snat)
        except BaseException:
            # A kernel that did not answer may have done all of it.
            undo(self._forget, store, call.network, call.key)
            raise
        return document

    def delete(self, call: Invocation) -> None:
        """DEL: the ports are free, whatever is left of the configuration."""
        self._forget(_store(_state_dir(call)), call.network, call.key)

    def check(self, call: Invocation) -> None:
        """CHECK: an error names each port that does not lead to the interface."""
        _, previous = _previous(call)
        endpoint = _endpoint(call, previous)
        if endpoint is None:
            return
        found = Portmap().drift(endpoint, snat=portmap_config(call.config).snat)
        if found:
            raise Drifted("; ".join(map(str, found)), details="DEL and ADD publish them anew")

    def collect(self, call: Invocation) -> None:
        """GC: the ports of every endpoint that is not a valid attachment become free."""
        valid = valid_attachments(call.config)
        if valid is None:
            return
        state_dir = _state_dir(call)
        store, of_network = _store(state_dir), EndpointStore(state_dir)
        failures: list[Error] = []
        for key in store.keys(call.network):
            if key not in valid:
                attempt(failures, self._forget, store, call.network, key)

        def known() -> set[EndpointKey]:
            return {*valid, *store.keys(call.network), *of_network.keys(call.network)}

        attempt(failures, lambda: Portmap().collect(call.network, known))
        attempt(failures, store.remove_half_written, call.network, 0)
        raise_all(failures)

    def status(self, call: Invocation) -> None:
        """STATUS: an error where the configuration, or the kernel, lets no port be published."""
        refuse_foreign(portmap_config(call.config))
        try:
            Portmap().check_status()
        except KernelRefused as error:
            raise NotAvailable(error.msg, details=error.details) from None

    def _forget(self, store: EndpointStore, network: str, key: EndpointKey) -> None:
        try:
            endpoint = store.load(network, key)
        except Damaged:
            Portmap().disown(network, key)  # the record is damaged
        else:
            if endpoint is not None:
                Portmap().unpublish(endpoint)
        store.remove(network, key)


def _state_dir(call: Invocation) -> str:
    return network_config(call.config).state_dir


def _store(state_dir: str) -> EndpointStore:
    """Records of our own, beside those of network plugins; no network's name has a dot first."""
    return EndpointStore(state_dir + "/.portmap")


def _previous(call: Invocation) -> tuple[dict[str, object], Attachment]:
    document = call.config.get("prevResult")
    if type(document) is not dict:
        raise InvalidNetworkConfig(
            "prevResult: is missing", details="portmap must be called as a chained plugin"
        )
    previous = result.from_document(document, call.version)
    return {**document, "cniVersion": call.version}, previous


def _endpoint(call: Invocation, previous: Attachment) -> Endpoint | None:
    """The endpoint with the ports to publish; None where there are none."""
    ports = published_ports(call.config)
    if not ports:
        return None
    return Endpoint(
        network=call.network,
        key=call.key,
        sandbox=Sandbox(call.netns),
        ports=ports,
        addressing=Addressing(_leases(call, previous)),
    )


def _leases(call: Invocation, previous: Attachment) -> tuple[Lease, ...]:
    """The addresses of the interface that the call is about."""
    of_interface = tuple(
        lease
        for lease, index in zip(previous.leases, previous.lease_interfaces, strict=True)
        if index is None or _named(previous, index) == call.ifname
    )
    if not of_interface:
        raise InvalidNetworkConfig(
            f'prevResult: has no address for interface "{call.ifname}"',
            details="published ports need an address to lead to",
        )
    return of_interface


def _named(previous: Attachment, index: int) -> str:
    known = 0 <= index < len(previous.interfaces)
    return previous.interfaces[index].name if known else ""


def refuse_foreign(options: PortmapConfig) -> None:
    """Refuse keys of the Go plugin that would be silently without effect; UnsupportedField."""
    for key, value, harmless in (
        ("backend", options.backend, "nftables"),
        ("masqAll", options.masq_all, False),
        ("externalSetMarkChain", options.external_set_mark_chain, ""),
        ("conditionsV4", options.conditions_v4, ()),
        ("conditionsV6", options.conditions_v6, ()),
    ):
        if value != harmless:
            raise UnsupportedField(
                f"{key}: {json.shorten(value)} is not supported", details="leave it out"
            )
