"""containerd, asked as the kubelet asks it: pods on our plugins, and what is left of them."""

import http.client
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import cni, image, iproute
from tests.cni import Config
from tests.containerd import Containerd, Pod, tool
from tests.etcd import Etcd
from tests.iproute import HOST, Netns
from tests.runtimes.spy import Spy

MakeNetns = Callable[[], Netns]

VERSION = "1.0.0"  # the newest that containerd 1.6 takes
SUBNETS = ("10.1.0.0/24", "fd00:1::/64")
BRIDGE: Config = {
    "type": "bridge",
    "bridge": "blue0",
    "isDefaultGateway": True,
    "ipMasq": True,
    "capabilities": {"portMappings": True},
    "ipam": cni.host_local(*SUBNETS),
}
MACVLAN: Config = {"type": "macvlan", "master": "up0", "ipam": cni.host_local(*SUBNETS)}
OVERLAY: Config = {
    "type": "overlay",
    "subnets": [{"subnet": subnet} for subnet in SUBNETS],
    "node": "host-1",
    "underlay": "192.0.2.1",
}


@pytest.fixture
def uplink(netns: MakeNetns) -> Netns:
    """What is at the other end of the host's link up0, whose address is 192.0.2.1."""
    outside = netns()
    HOST.ip("link", "add", "up0", "up", "type", "veth", "peer", "eth0", "netns", outside.name)
    HOST.ip("addr", "add", "192.0.2.1/24", "dev", "up0")
    outside.ip("link", "set", "eth0", "up")
    outside.ip("addr", "add", "192.0.2.2/24", "dev", "eth0")
    return outside


@pytest.fixture
def etcd(node: None, tmp_path: Path) -> Iterator[Etcd]:
    """A server for overlays, on this host."""
    server = Etcd(tmp_path / "etcd")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def programs(request: pytest.FixtureRequest) -> Path:
    """The directory of the containerd under test."""
    chosen: Path | None = request.config.getoption("--containerd")
    return (chosen or Path("/usr/bin")).absolute()


@pytest.fixture
def spy(cni_bin: Path, tmp_path: Path) -> Spy:
    """Our plugins, with a record of the calls that they get."""
    return Spy.on(cni_bin, tmp_path / "bin")


@pytest.fixture
def containerd(programs: Path, spy: Spy, uplink: Netns, tmp_path: Path) -> Iterator[Containerd]:
    """A containerd with the image, and with a bridge until a test configures something else."""
    daemon = Containerd(tmp_path / "containerd", programs, spy.directory)
    daemon.configure(BRIDGE, version=VERSION)
    daemon.start()
    try:
        daemon.load()
        yield daemon
    finally:
        daemon.stop()


def left() -> list[str]:
    """What there still is of endpoints: addresses, links, records, elements of nftables.

    A network's own stays: its bridge, and the rules of its subnets.
    """
    found = [f"address {address}" for address in cni.leases()]
    found += [f"port {port}" for port in HOST.ports("blue0")]
    found += [f"link {name}" for name in HOST.links() if name.startswith(("veth", "cnm-"))]
    rules = iproute.run("nft", "list", "ruleset")
    found += re.findall(
        r".*(?:\b808\d\b|\b10\.1\.0\.\d+(?!\d|/24)|fd00:1::[0-9a-f]+(?!/)).*", rules
    )
    records = [*Path("/run/cnm").rglob("*"), *Path("/var/lib/cnm").rglob("*")]
    return found + [str(each) for each in records if "eth0" in each.name]


def hostname(address: str, port: int = 80) -> str:
    """What a server of a pod answers to whoever is in this thread's network namespace."""
    connection = http.client.HTTPConnection(address, port, timeout=cni.PATIENCE)
    connection.request("GET", "/hostname")
    return connection.getresponse().read().decode().strip()


@pytest.mark.parametrize("kind", ["bridge", "macvlan", "overlay", "overlay with etcd"])
def test_pods(
    containerd: Containerd, request: pytest.FixtureRequest, kind: str, tmp_path: Path
) -> None:
    """Two pods have the addresses that CRI reports, and reach each other; nothing is left."""
    network = {"bridge": BRIDGE, "macvlan": MACVLAN}.get(kind, OVERLAY)
    if kind == "overlay with etcd":
        etcd: Etcd = request.getfixturevalue("etcd")
        network = network | {"store": {"endpoints": [etcd.url]}}
    containerd.configure(network, version=VERSION)
    _settle(containerd, network["type"])
    pods = [containerd.run_pod(containerd.pod()) for _ in range(2)]
    servers = [containerd.serve(pod) for pod in pods]
    for pod, client in zip(pods, reversed(servers), strict=True):
        addresses = containerd.addresses(pod)
        assert len(set(addresses)) == 2
        for address in addresses:
            assert containerd.fetch(client, address) == pod.name
    containerd.crictl("stop", "--timeout=0", servers[0])
    containerd.crictl("rm", servers[0])
    for pod in pods:
        containerd.remove(pod)
    assert left() == []


def _settle(containerd: Containerd, kind: str) -> None:
    """Wait until containerd has noticed another network."""
    deadline = time.monotonic() + cni.PATIENCE
    while f'"{kind}"' not in containerd.crictl("info").replace('\\"', '"'):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_published_port(containerd: Containerd, uplink: Netns) -> None:
    """A pod's port is reached at the host's addresses, from the host and from outside."""
    pod = containerd.run_pod(containerd.pod((8080, 80)))
    containerd.serve(pod)
    assert hostname("127.0.0.1", 8080) == hostname("192.0.2.1", 8080) == pod.name
    with uplink.entered():
        assert hostname("192.0.2.1", 8080) == pod.name
    containerd.remove(pod)
    assert left() == []


def test_thirty_pods_at_once(containerd: Containerd) -> None:
    """Each has an address of its own, which answers; all are removed at once."""
    with ThreadPoolExecutor(10) as pool:
        configs = [containerd.pod() for _ in range(30)]
        pods = list(pool.map(containerd.run_pod, configs))
        addresses = list(pool.map(lambda pod: containerd.addresses(pod)[0], pods))
        assert len(set(addresses)) == 30
        assert all(pool.map(lambda address: HOST.reaches(address, seconds=cni.PATIENCE), addresses))
        list(pool.map(containerd.remove, pods))
    assert left() == []


def test_removed_while_containerd_restarts(containerd: Containerd) -> None:
    """containerd is killed among removals and started again; the pods go, and all of theirs."""
    pods = [containerd.run_pod(containerd.pod((8080 + number, 80))) for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(3):
            removals = [pool.submit(containerd.call, "stopp", pod.id) for pod in pods]
            time.sleep(0.15)
            containerd.kill()
            for each in removals:
                each.result()
            containerd.start()
    for pod in pods:
        containerd.remove(pod)
    assert left() == []


def test_critest(containerd: Containerd, tmp_path: Path) -> None:
    """Kubernetes' own tests of runtimes: what they ask of networks."""
    critest = tool("critest")
    if critest is None:
        pytest.skip("make test-containerd builds critest")
    web = "cnm.test/web:1"
    containerd.load(web, ("/bin/httpd", "-f", "-p", "80", "-h", "/www"))
    images = tmp_path / "images.yaml"
    images.write_text(f"defaultTestContainerImage: {image.NAME}\nwebServerTestImage: {web}\n")
    endpoints = [f"--{kind}-endpoint=unix://{containerd.socket}" for kind in ("runtime", "image")]
    command = [critest, *endpoints, f"--test-images-file={images}", "--ginkgo.focus=Networking"]
    done = subprocess.run(
        [*command, "--ginkgo.no-color"],
        env={"PATH": cni.SEARCH_PATH, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"SUCCESS! -- [1-9]\d* Passed \| 0 Failed", done.stdout), done.stdout
    assert left() == []


def test_failed_pod(containerd: Containerd, spy: Spy) -> None:
    """A pod for which there is no address is not made; the next one is, when there is one."""
    full = BRIDGE | {"bridge": "full0", "ipam": cni.host_local("10.1.0.0/30")}
    containerd.configure(full, version=VERSION)
    _settle(containerd, "full0")
    pod = containerd.run_pod(containerd.pod())
    refused = containerd.call("runp", str(containerd.pod()))
    assert refused.returncode != 0
    assert "10.1.0.2" in refused.stderr
    containerd.remove(pod)
    assert containerd.addresses(containerd.run_pod(containerd.pod())) == ["10.1.0.2"]


def test_calls(containerd: Containerd, spy: Spy) -> None:
    """What it calls: ADD, and DEL when the pod stops and once more when it is removed."""
    containerd.remove(containerd.run_pod(containerd.pod()))
    assert spy.commands() == {plugin: ["ADD", "DEL", "DEL"] for plugin in ("bridge", "loopback")}
    last = [call for call in spy.calls() if call.plugin == "bridge"][-1]
    assert (last.netns, "prevResult" in last.config) == ("", False)


def test_newest_version(containerd: Containerd, spy: Spy) -> None:
    """A network of CNI 1.1.0: containerd 1.6 refuses the result; newer ones call STATUS, too."""
    containerd.configure(BRIDGE, version="1.1.0")
    _settle(containerd, "1.1.0")
    done = containerd.call("runp", str(containerd.pod()))
    if containerd.programs == Path("/usr/bin"):
        assert 'unsupported CNI result version \\"1.1.0\\"' in done.stderr
        assert spy.commands()["bridge"] == ["ADD", "DEL"]
    else:
        assert done.returncode == 0
        containerd.crictl("info")
        containerd.remove(Pod(done.stdout.strip(), containerd.pod()))
        assert set(spy.commands()["bridge"]) == {"ADD", "DEL", "STATUS"}
    assert left() == []
