"""Results of ADD, and the prevResult that comes back, in each version's own shape.

CNI spec 1.1.0, "Success", and the result types of 0.2.0, 0.4.0 and 1.0.0: before 0.3.0 a
result has one address of each family and no interfaces; before 1.0.0 an address names its
family; MTUs and the newer attributes of routes came with 1.1.0.
"""

from cnm_core import json
from cnm_core.cni.invocation import VERSIONS
from cnm_core.errors import DecodingFailure, InvalidNetworkConfig
from cnm_core.inet import format_ip, parse_address, parse_ip
from cnm_core.model import Attachment, Dns, Interface, Lease, Route

OLD = ("0.1.0", "0.2.0")
_ROUTE_NUMBERS = ("mtu", "advmss", "priority", "table", "scope")


def to_document(attachment: Attachment, version: str) -> dict[str, object]:
    """The result as that version of the specification has it.

    Raises InvalidNetworkConfig where the version has no room for the addresses.
    """
    if version in OLD:
        return _old_document(attachment, version)
    newest = version == "1.1.0"
    document: dict[str, object] = {"cniVersion": version}
    if attachment.interfaces:
        document["interfaces"] = [_interface(each, newest) for each in attachment.interfaces]
    if attachment.leases:
        indexes = attachment.lease_interfaces or (None,) * len(attachment.leases)
        document["ips"] = [
            _lease(lease, index, version)
            for lease, index in zip(attachment.leases, indexes, strict=True)
        ]
    if attachment.routes:
        document["routes"] = [_route(each, newest) for each in attachment.routes]
    dns = _dns(attachment.dns)
    if dns or version[0] == "0":
        document["dns"] = dns
    return document


def from_document(document: object, version: str) -> Attachment:
    """The attachment in a result of any version; `version` where it does not say its own.

    Raises DecodingFailure with the place of what is wrong.
    """
    try:
        fields = _object(document)
        version = _text(fields.get("cniVersion") or version)
        if version not in VERSIONS:
            raise ValueError(f'cniVersion "{version}" is not supported')
        if version in OLD:
            return _from_old(fields)
        ips = [_object(each) for each in _list(fields.get("ips"))]
        return Attachment(
            interfaces=tuple(_from_interface(each) for each in _list(fields.get("interfaces"))),
            leases=tuple(_from_lease(each, "address") for each in ips),
            lease_interfaces=tuple(_number(each.get("interface")) for each in ips),
            routes=tuple(_from_route(each) for each in _list(fields.get("routes"))),
            dns=_from_dns(fields.get("dns")),
        )
    except (ValueError, KeyError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else error
        raise DecodingFailure(
            f"a result makes no sense: {what}", details=json.shorten(document, 400)
        ) from None


def _interface(interface: Interface, newest: bool) -> dict[str, object]:
    out: dict[str, object] = {"name": interface.name}
    if interface.mac:
        out["mac"] = interface.mac
    if interface.mtu and newest:
        out["mtu"] = interface.mtu
    if interface.sandbox:
        out["sandbox"] = interface.sandbox
    return out


def _lease(lease: Lease, index: int | None, version: str) -> dict[str, object]:
    out: dict[str, object] = {}
    if version[0] == "0":
        out["version"] = str(lease.address.version)
    out["address"] = str(lease.address)
    if lease.gateway is not None:
        out["gateway"] = format_ip(lease.gateway)
    if index is not None:
        out["interface"] = index
    return out


def _route(route: Route, newest: bool) -> dict[str, object]:
    out: dict[str, object] = {"dst": str(route.destination)}
    if route.gateway is not None:
        out["gw"] = format_ip(route.gateway)
    for key in _ROUTE_NUMBERS if newest else ():
        value = getattr(route, key)
        if value is not None:
            out[key] = value
    return out


def _dns(dns: Dns) -> dict[str, object]:
    members = (
        ("nameservers", dns.nameservers),
        ("domain", dns.domain),
        ("search", dns.search),
        ("options", dns.options),
    )
    return {key: value for key, value in members if value}


def _old_document(attachment: Attachment, version: str) -> dict[str, object]:
    document: dict[str, object] = {"cniVersion": version}
    for lease in attachment.leases:
        key = f"ip{lease.address.version}"
        if key in document:
            raise InvalidNetworkConfig(
                f"cniVersion {version} has room for one IPv{lease.address.version} address only",
                details="use 0.3.0 or newer, or one range set for each family",
            )
        family: dict[str, object] = {"ip": str(lease.address)}
        if lease.gateway is not None:
            family["gateway"] = format_ip(lease.gateway)
        routes = [
            _route(each, newest=False)
            for each in attachment.routes
            if each.destination.version == lease.address.version
        ]
        if routes:
            family["routes"] = routes
        document[key] = family
    document["dns"] = _dns(attachment.dns)
    return document


def _from_old(fields: dict[str, object]) -> Attachment:
    leases: list[Lease] = []
    routes: list[Route] = []
    for key in ("ip4", "ip6"):
        if fields.get(key) is not None:
            family = _object(fields[key])
            leases.append(_from_lease(family, "ip"))
            routes += [_from_route(each) for each in _list(family.get("routes"))]
    return Attachment(
        (), tuple(leases), (None,) * len(leases), tuple(routes), _from_dns(fields.get("dns"))
    )


def _from_interface(document: object) -> Interface:
    fields = _object(document)
    mtu = fields.get("mtu")
    return Interface(
        _text(fields["name"]),
        _text(fields.get("mac") or ""),
        mtu if type(mtu) is int and mtu else None,
        _text(fields.get("sandbox") or ""),
    )


def _from_lease(fields: dict[str, object], key: str) -> Lease:
    gateway = fields.get("gateway")
    return Lease(parse_address(_text(fields[key])), parse_ip(_text(gateway)) if gateway else None)


def _from_route(document: object) -> Route:
    fields = _object(document)
    numbers = {key: _number(fields.get(key)) for key in _ROUTE_NUMBERS}
    gateway = fields.get("gw")
    return Route(
        parse_address(_text(fields["dst"])).network,
        parse_ip(_text(gateway)) if gateway else None,
        **numbers,
    )


def _from_dns(document: object) -> Dns:
    fields = _object(document or {})
    return Dns(
        tuple(map(_text, _list(fields.get("nameservers")))),
        _text(fields.get("domain") or ""),
        tuple(map(_text, _list(fields.get("search")))),
        tuple(map(_text, _list(fields.get("options")))),
    )


def _object(value: object) -> dict[str, object]:
    if type(value) is dict:
        return value
    raise ValueError(f"expected an object, got {json.shorten(value)}")


def _list(value: object) -> list[object]:
    if value is None:
        return []
    if type(value) is list:
        return value
    raise ValueError(f"expected a list, got {json.shorten(value)}")


def _text(value: object) -> str:
    if type(value) is str:
        return value
    raise ValueError(f"expected a string, got {json.shorten(value)}")


def _number(value: object) -> int | None:
    if value is None or type(value) is int:
        return value
    raise ValueError(f"expected a whole number, got {json.shorten(value)}")
