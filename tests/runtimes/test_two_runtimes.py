"""podman and cnitool on one node, with one network between them."""

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import cni
from tests.commands import Cnm
from tests.hosts import Sandboxes
from tests.iproute import HOST, Netns
from tests.podman import Podman
from tests.runtimes.test_containerd import hostname, left
from tests.runtimes.test_podman import VERSION, bridge


@pytest.fixture
def podman(cni_bin: Path, cnm: Cnm, tmp_path: Path) -> Iterator[Podman]:
    """podman with a network, whose file cnitool has, too."""
    podman = Podman.set_up(tmp_path / "podman", cni_bin)
    podman.network("blue", bridge(0), version=VERSION)
    shutil.copytree(podman.networks, cnm.networks)
    yield podman
    podman.clear()


def test_at_once(podman: Podman, cnm: Cnm, netns: Sandboxes) -> None:
    """What one has the other does not get, and when both are done nothing is left."""
    sandboxes = [netns() for _ in range(4)]
    given: list[str] = []

    def pods(of: int) -> None:
        name = f"pod{of}"
        podman.serve(name, "--network=blue", f"--publish={8080 + of}:80")
        given.extend(podman.addresses(name)["blue"])

    def attachments(sandbox: Netns) -> None:
        for number in range(6):
            result = cnm.add("blue", sandbox, CNI_IFNAME=f"eth{number}")
            cnm.delete("blue", sandbox, CNI_IFNAME=f"eth{number}")
        result = cnm.add("blue", sandbox)
        given.extend(cni.addresses(result))

    with ThreadPoolExecutor(6) as threads:
        works = [threads.submit(attachments, each) for each in sandboxes]
        works += [threads.submit(pods, of) for of in range(2)]
        for work in works:
            work.result()
    assert len(given) == len(set(given)) == 12
    assert set(cni.leases()) == set(given)
    with ThreadPoolExecutor(6) as threads:
        works = [threads.submit(cnm.delete, "blue", each) for each in sandboxes]
        works += [threads.submit(podman.remove, f"pod{of}") for of in range(2)]
        for work in works:
            work.result()
    assert left() == []


@pytest.mark.parametrize("disabled", [False, True])
def test_collection_by_one(podman: Podman, cnm: Cnm, *, disabled: bool) -> None:
    """`cnitool gc` deletes what podman has, by the list that libcni keeps for both of them.

    With `disableGC`, which is for networks that runtimes share, it leaves all alone.
    """
    podman.serve("pod", "--network=blue")
    assert len(cni.leases()) == 2
    document = json.loads((podman.networks / "blue.conflist").read_text())
    cnm.put("blue.conflist", document | {"cniVersion": cni.NEWEST, "disableGC": disabled})
    assert cnm.cnitool("gc", "blue", "").code == 0
    if disabled:
        assert set(cni.leases()) == set(podman.addresses("pod")["blue"])
        assert len(HOST.ports("blue0")) == 1
    else:
        assert not cni.leases()
        assert not HOST.ports("blue0")


def test_collection_in_a_network_of_its_own(podman: Podman, cnm: Cnm, netns: Sandboxes) -> None:
    """A name, a bridge and a subnet for each: what one collects is its own."""
    document = {"cniVersion": cni.NEWEST, "name": "green", "plugins": [bridge(1)]}
    cnm.put("green.conflist", document)
    podman.serve("pod", "--network=blue", "--publish=8080:80")
    stale = netns()
    cnm.add("green", stale)
    assert cnm.cnitool("gc", "green", "").code == 0
    assert not cni.leases("green")
    assert set(cni.leases()) == set(podman.addresses("pod")["blue"])
    assert hostname("127.0.0.1", 8080) == "pod"
    podman.remove("pod")
    assert left() == []
