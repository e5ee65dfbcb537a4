"""The file of a cluster's network on one host, as `cnm network create` and the agent have it.

What is the same on all hosts is in the store: the network itself, and beside it, below
``conflists/``, what only the file says. Keys of the host are its agent's.
"""

from typing import Any

from cnm_core import json
from cnm_core.cli.conflists import OURS, Conflist
from cnm_core.cni.invocation import VERSIONS
from cnm_core.config import formats
from cnm_core.errors import StateFailure
from cnm_core.inet import format_ip
from cnm_core.store.entries import SharedNetwork

# In what is ours of a file: the cluster whose network it is, and whether the agent wrote it.
CLUSTER, BY_AGENT = "cluster", "byAgent"
# It tells where etcd is and who asks, which is nobody's business but root's.
MODE = 0o600
_SHARED = ("created", "labels", "internal")


def taken_over(network: SharedNetwork) -> dict[str, Any]:
    """The keys that a network of the cluster has on all hosts, but for subnets."""
    keys: dict[str, Any] = {"vni": network.vni, "port": network.port, "mtu": network.mtu}
    if network.internal:
        keys["internal"] = True
    if network.encrypted:
        keys["encrypted"] = network.encrypted
    if network.routed:
        keys["mode"] = network.mode
    if network.floods:
        keys["bum"] = network.bum
    if not network.tx_checksum:
        keys["txChecksum"] = False
    return keys


def plugin(keys: dict[str, Any], subnets: list[dict[str, Any]]) -> dict[str, Any]:
    """The plugin object."""
    capabilities = ["ips", "mac"] + ([] if keys.get("internal") else ["portMappings"])
    found = {"type": "overlay", **keys, "subnets": subnets}
    return found | {"capabilities": dict.fromkeys(capabilities, True)}


def cluster_of(keys: dict[str, Any]) -> str:
    """The name of the cluster that a host's keys, or a plugin object, mean."""
    return str(keys.get("store", {}).get("cluster", "default"))


def shared_part(document: dict[str, Any]) -> str:
    """What the store has of a file, for the other hosts."""
    ours = {key: document[OURS][key] for key in _SHARED if key in document[OURS]}
    return json.dumps({"cniVersion": document["cniVersion"], OURS: ours})


def document(network: SharedNetwork, shared: str, keys: dict[str, Any]) -> dict[str, Any]:
    """The file that an agent writes. Raises StateFailure where the shared part makes no sense."""
    try:
        fields: Any = json.loads(shared)  # strictly: what is no JSON to a runtime is none here
        version, about = fields["cniVersion"], fields[OURS]
        formats.name(network.name)
        if version not in VERSIONS or not isinstance(about, dict):
            raise ValueError("cniVersion or cnm is not what a file can have")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StateFailure(
            f'"conflists/{network.name}" of the cluster makes no sense: {error}',
            details="an older or newer version may have written it, or somebody by hand",
        ) from None
    ours = {key: about[key] for key in _SHARED if key in about}
    subnets = [
        {"subnet": str(each.address), "gateway": format_ip(each.gateway)}
        for each in network.subnets
    ]
    return {
        "cniVersion": version,
        "name": network.name,
        OURS: {**ours, CLUSTER: cluster_of(keys), BY_AGENT: True},
        "plugins": [plugin({**keys, **taken_over(network)}, subnets)],
    }


def is_of(network: Conflist, keys: dict[str, Any]) -> bool:
    """Whether a file was made by cnm for a network of the cluster that a host's keys mean."""
    same_store = network.driver_config.get("store", {}) == keys.get("store", {})
    return network.is_overlay and same_store and network.cluster == cluster_of(keys)
