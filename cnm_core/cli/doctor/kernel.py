"""What the kernel can do, tried out in a network namespace that is thrown away."""

import ctypes
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnm_core.cli.doctor.finding import ERROR, OK, WARNING, Finding
from cnm_core.drivers.firewall import Firewall
from cnm_core.errors import Error
from cnm_core.kernel import conntrack, nftables, xfrm
from cnm_core.kernel.netlink import Socket
from cnm_core.kernel.netns import CLONE_NEWNET

if TYPE_CHECKING:
    from pyroute2 import IPRoute

AREA = "kernel"
OLDEST = (4, 18)
_UDP = 17


@dataclass(frozen=True)
class Feature:
    """Something that the kernel may have: what needs it, and which modules bring it.

    `modules` are all that a trial would have the kernel load.
    """

    name: str
    user: str
    modules: tuple[str, ...]
    trial: "Callable[[IPRoute], None]"
    status: str = WARNING


def findings() -> Iterator[Finding]:
    """Kernel version and features."""
    release = os.uname().release
    version = tuple(int(part) for part in release.split("-")[0].split(".")[:2])
    new = version >= OLDEST
    oldest = ".".join(map(str, OLDEST))
    advice = "" if new else f"Linux {oldest} is the oldest that works"
    yield Finding(AREA, "version", OK if new else ERROR, f"Linux {release}", advice)
    modules = Modules(Path("/sys/module"), Path("/lib/modules", release))
    states = {feature: modules.state(feature.modules) for feature in FEATURES}
    answers = _try([feature for feature, state in states.items() if not state])
    for feature, state in states.items():
        yield _finding(feature, state or answers[feature.name], modules)


class Modules:
    """The kernel's modules: loaded, built in, or there to be loaded."""

    def __init__(self, loaded: Path, tree: Path) -> None:
        self._loaded = loaded
        self._builtin = _names(tree / "modules.builtin")
        self._loadable = _names(tree / "modules.dep")
        self._tree = tree
        self.modular = Path("/proc/modules").exists()

    def state(self, names: tuple[str, ...]) -> str:
        """Why a trial must not be made, since it would load a module; "" where it may be."""
        if not self.modular:
            return ""
        absent = [name for name in names if not self._has(name)]
        if not absent:
            return ""
        if not self._loadable:
            return f"unknown: module {absent[0]} is not loaded, and {self._tree} not here"
        missing = [name for name in absent if name not in self._loadable]
        return f"missing: {missing[0]}" if missing else f"loadable: {', '.join(absent)}"

    def _has(self, name: str) -> bool:
        return name in self._builtin or (self._loaded / name).exists()


def _names(index: Path) -> set[str]:
    """The modules in an index of depmod, in the spelling of /sys/module."""
    try:
        lines = index.read_text().splitlines()
    except OSError:
        return set()
    paths = (line.partition(":")[0] for line in lines)
    return {path.rpartition("/")[2].partition(".ko")[0].replace("-", "_") for path in paths}


def _finding(feature: Feature, answer: str, modules: Modules) -> Finding:
    """The finding for what is known of a feature: "" where a trial went well."""
    make = partial(Finding, AREA, feature.name)
    word, _, rest = answer.partition(": ")
    if not answer:
        return make(OK, "there")
    if word == "loadable":
        names = rest.split(", ")
        mend = partial(_load, names) if feature.status == ERROR else None
        return make(OK, f"the kernel loads {rest} at first use", "", mend)
    if word == "unknown":
        advice = f"{feature.user} may not work; look for it on the host itself"
        return make(WARNING, f"cannot be tried without loading it: {rest}", advice)
    if word == "missing":
        advice = "install the distribution's whole kernel, with its extra modules"
        return make(feature.status, f"the kernel has no module {rest}: no {feature.user}", advice)
    advice = "the kernel was built without it; use another one"
    return make(feature.status, f"refused ({answer}): no {feature.user}", advice)


def _load(names: list[str]) -> str:
    subprocess.run(["modprobe", "--all", "--", *names], check=True, capture_output=True)
    return f"loaded {', '.join(names)}"


def _try(features: list[Feature]) -> dict[str, str]:
    """For each feature "", or why the kernel refused it, from a process that ends then."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            answers = json.dumps(_try_here(features)).encode()
            with os.fdopen(writer, "wb") as sink:
                sink.write(answers)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as source:
        answers = source.read()
    os.waitpid(child, 0)
    if not answers:
        return {feature.name: "cannot make a network namespace" for feature in features}
    found: dict[str, str] = json.loads(answers)
    return found


def _try_here(features: list[Feature]) -> dict[str, str]:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) == -1:
        reason = os.strerror(ctypes.get_errno())
        return {each.name: f"cannot make a network namespace: {reason}" for each in features}
    from pyroute2 import IPRoute

    with IPRoute() as ipr:
        return {feature.name: _attempt(feature, ipr) for feature in features}


def _attempt(feature: Feature, ipr: "IPRoute") -> str:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        feature.trial(ipr)
    except NetlinkError as error:
        return os.strerror(error.code)
    except Error as error:
        return error.msg
    return ""


def _link(kind: str, **options: Any) -> "Callable[[IPRoute], None]":
    """A trial that makes a link, on one of a veth pair of its own where it needs a parent."""
    on_parent = options.pop("on_parent", False)

    def trial(ipr: "IPRoute") -> None:
        if on_parent:
            parent = f"p{kind}"
            ipr.link("add", ifname=parent, kind="veth", peer={"ifname": f"q{kind}"})
            options["link"] = ipr.link_lookup(ifname=parent)[0]
        ipr.link("add", ifname=f"t{kind}", kind=kind, **options)

    return trial


def _vlan_filtering(ipr: "IPRoute") -> None:
    """A kernel without it takes the option and leaves it off (br_changelink)."""
    ipr.link("add", ifname="filtering", kind="bridge", br_vlan_filtering=1)
    (found,) = ipr.get_links(ipr.link_lookup(ifname="filtering")[0])
    data = found.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")
    if data.get_attr("IFLA_BR_VLAN_FILTERING") != 1:
        raise Error("built without CONFIG_BRIDGE_VLAN_FILTERING")


def _nftables(_: "IPRoute") -> None:
    Firewall().prepare()


def _conntrack(_: "IPRoute") -> None:
    discarded = [(bytes([127, 0, 0, 1]), 9)]
    conntrack.forget(nftables.open_socket(), _UDP, conntrack.DESTINATION, discarded)


def _esp(_: "IPRoute") -> None:
    if not xfrm.has_interfaces(Socket(), "tesp"):
        raise Error("built without CONFIG_XFRM_INTERFACE")
    xfrm.Xfrm(1).try_out(bytes([127, 0, 0, 1]))


_NFT_MODULES = (
    "nf_tables",
    "nf_conntrack",
    "nf_nat",
    "nft_chain_nat",
    "nft_ct",
    "nft_fib",
    "nft_masq",
    "nft_nat",
)
FEATURES = (
    Feature("bridge", "bridge networks", ("bridge",), _link("bridge"), ERROR),
    Feature("veth", "bridge networks", ("veth",), _link("veth", peer={"ifname": "peer"}), ERROR),
    Feature("VLAN filtering", "VLANs on bridges", ("bridge",), _vlan_filtering),
    Feature(
        "VLAN links",
        "parents such as eth0.10",
        ("veth", "8021q"),
        _link("vlan", on_parent=True, vlan_id=10),
    ),
    Feature(
        "macvlan",
        "macvlan networks",
        ("veth", "macvlan"),
        _link("macvlan", on_parent=True, macvlan_mode="bridge"),
    ),
    Feature(
        "ipvlan",
        "ipvlan networks",
        ("veth", "ipvlan"),
        _link("ipvlan", on_parent=True, ipvlan_mode=0),
    ),
    Feature("vxlan", "overlay networks", ("vxlan",), _link("vxlan", vxlan_id=1)),
    Feature("WireGuard", "encrypted overlay networks", ("wireguard",), _link("wireguard")),
    Feature(
        "ESP with AES-GCM",
        'overlay networks that are encrypted by "esp"',
        ("xfrm_user", "xfrm_interface", "esp4", "gcm", "seqiv"),
        _esp,
    ),
    Feature(
        "nftables", "masquerading, published ports and isolation", _NFT_MODULES, _nftables, ERROR
    ),
    Feature(
        "conntrack by netlink",
        "UDP flows that follow published ports",
        ("nf_conntrack", "nf_conntrack_netlink"),
        _conntrack,
    ),
)
