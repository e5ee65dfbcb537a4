"""Addresses from an IPAM driver that was written for Docker, for the bridge plugin."""

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import certificates, cni
from tests.cni import INVALID_CONFIG, NOT_AVAILABLE, PLUGIN_SPECIFIC, Config, Endpoint
from tests.iproute import HOST
from tests.remote_ipam import GATEWAY, MAC, Driver

TRY_AGAIN_LATER = 11
RECORDS = Path("/var/lib/cnm/remote")
SPECS = (Path("/etc/docker/plugins"), Path("/usr/lib/docker/plugins"))
MakeEndpoint = Callable[[], Endpoint]
Run = Callable[..., Driver]


@pytest.fixture
def run(tmp_path: Path, docker_plugins: Path) -> Iterator[Run]:
    """Starts drivers; `listen` may be another place than their socket of that name."""
    started: list[Driver] = []

    def start(name: str = "custom", *options: str, listen: str = "") -> Driver:
        driver = Driver(listen or f"{docker_plugins}/{name}.sock", tmp_path / name, options)
        started.append(driver)
        driver.start()
        return driver

    yield start
    for each in started:
        each.stop()


@pytest.fixture
def driver(run: Run) -> Driver:
    """A driver named custom."""
    return run()


def network(**members: object) -> Config:
    """A bridge with addresses from the driver named custom."""
    return cni.network(ipam={"type": "remote", "driver": "custom", **members})


def test_life(driver: Driver, endpoint: MakeEndpoint) -> None:
    """The pool comes with the first endpoint and goes with the last; a gateway belongs to it."""
    config = network()
    one, other = endpoint(), endpoint()
    result = one.add(config)
    assert result["ips"] == [{"address": "10.90.0.2/24", "gateway": "10.90.0.1", "interface": 2}]
    assert one.netns.addresses("eth0") == ["10.90.0.2/24"]
    assert HOST.addresses("blue0") == ["10.90.0.1/24"]
    assert driver.methods() == [
        "Activate", "GetCapabilities", "GetDefaultAddressSpaces",
        "RequestPool", "RequestAddress", "RequestAddress",
    ]  # fmt: skip
    assert driver.called("RequestPool") == [
        {"AddressSpace": "near", "Pool": "", "SubPool": "", "Options": {}, "V6": False}
    ]
    assert driver.called("RequestAddress")[0]["Options"] == {
        "RequestAddressType": "com.docker.network.gateway"
    }
    driver.forget()
    again = other.add(config)
    assert cni.addresses(again) == ["10.90.0.3"]
    assert driver.methods() == ["RequestAddress"]
    one.check(config, result).silent()
    other.delete(config, again)
    assert driver.methods() == ["RequestAddress", "ReleaseAddress"]
    one.delete(config, result)
    assert driver.methods()[2:] == ["ReleaseAddress", "ReleaseAddress", "ReleasePool"]
    one.delete(config, result)
    assert len(driver.methods()) == 5


def test_type_is_the_drivers_name(driver: Driver, endpoint: MakeEndpoint) -> None:
    """Where CNI_PATH has no plugin of that name, one of Docker's is meant."""
    config = cni.network(ipam={"type": "custom", "subnet": "10.5.0.0/24"})
    eth0 = endpoint()
    assert cni.addresses(eth0.add(config)) == ["10.5.0.2"]
    shutil.rmtree("/run/cnm/blue")  # as a reboot does
    driver.stop()
    eth0.delete(config)  # the record tells that the driver is away, and not unknown
    driver.start()


def test_plugin_of_cni_path_comes_first(
    driver: Driver, endpoint: MakeEndpoint, tmp_path: Path
) -> None:
    """A delegate of the same name is run, and the driver not asked."""
    (tmp_path / "bin").mkdir()
    plugin = tmp_path / "bin/custom"
    plugin.write_text(
        '#!/bin/sh\necho \'{"cniVersion":"1.0.0","code":142,"msg":"a delegate"}\'\nexit 1'
    )
    plugin.chmod(0o755)
    config = cni.network(ipam={"type": "custom"})
    error = endpoint().call("ADD", config, path=str(tmp_path / "bin")).error(142)
    assert error["msg"] == "a delegate"
    assert driver.methods() == []


def test_what_is_asked_for(driver: Driver, endpoint: MakeEndpoint) -> None:
    """Subnets, parts, gateways, families and options reach the driver as Docker sends them."""
    pools = [
        {"subnet": "10.5.0.0/16", "ipRange": "10.5.7.0/24", "gateway": "10.5.0.254"},
        {"subnet": "fd00:5::/64"},
    ]
    config = network(pools=pools, addressSpace="far", options={"tenant": "red"})
    eth0 = endpoint()
    result = eth0.add(config)
    assert [(ip["address"], ip["gateway"]) for ip in result["ips"]] == [
        ("10.5.7.1/16", "10.5.0.254"),
        ("fd00:5::2/64", "fd00:5::1"),
    ]
    common = {"AddressSpace": "far", "Options": {"tenant": "red"}}
    assert driver.called("RequestPool") == [
        {**common, "Pool": "10.5.0.0/16", "SubPool": "10.5.7.0/24", "V6": False},
        {**common, "Pool": "fd00:5::/64", "SubPool": "", "V6": True},
    ]
    assert "GetDefaultAddressSpaces" not in driver.methods()
    eth0.check(config, result).silent()
    eth0.delete(config, result)
    assert driver.held() == driver.pools() == []


def test_both_families(driver: Driver, endpoint: MakeEndpoint) -> None:
    """ipv6: true adds a pool of the driver's choice."""
    result = endpoint().add(network(ipv6=True, subnet="10.5.0.0/24"))
    assert cni.addresses(result) == ["10.5.0.2", "fd00:90::2"]


def test_requested_address(driver: Driver, endpoint: MakeEndpoint) -> None:
    """An address that is asked for is passed on; taken, or outside of the pool, it is refused."""
    config = network(subnet="10.5.0.0/24")
    eth0, eth1 = endpoint(), endpoint()
    assert cni.addresses(eth0.add(config, args="IP=10.5.0.77")) == ["10.5.0.77"]
    taken = eth1.call("ADD", config, args="IP=10.5.0.77").error(PLUGIN_SPECIFIC)
    assert taken["msg"] == (
        'IPAM driver "custom" refused IpamDriver.RequestAddress: Address already in use'
    )
    outside = eth1.call("ADD", config, args="IP=10.6.0.1").error(INVALID_CONFIG)
    assert "10.6.0.1" in outside["msg"] and "10.5.0.0/24" in outside["details"]
    wanted = config | {"runtimeConfig": {"ips": ["10.5.0.88/24"]}, "capabilities": {"ips": True}}
    assert cni.addresses(eth1.add(wanted)) == ["10.5.0.88"]


def test_mac_address_first(run: Run, endpoint: MakeEndpoint) -> None:
    """A driver that wants the MAC address gets the one that the endpoint has then."""
    driver = run("custom", "--needs-mac")
    config = network()
    eth0, eth1 = endpoint(), endpoint()
    eth0.add(config)
    eth1.add(config, args="MAC=02:42:0a:01:00:05")
    told = [fields["Options"].get(MAC) for fields in driver.called("RequestAddress")]
    assert told[1:] == [eth0.netns.link("eth0")["address"], "02:42:0a:01:00:05"]
    assert eth1.netns.link("eth0")["address"] == "02:42:0a:01:00:05"


def test_first_endpoints_at_once(driver: Driver, endpoint: MakeEndpoint) -> None:
    """However many come first, the pool is requested once."""
    config = network(timeoutSeconds=cni.PATIENCE)
    endpoints = [endpoint() for _ in range(12)]
    with ThreadPoolExecutor(len(endpoints)) as pool:
        results = list(pool.map(lambda each: each.add(config), endpoints))
        given = [address for result in results for address in cni.addresses(result)]
        assert len(set(given)) == len(endpoints)
        assert driver.methods().count("RequestPool") == 1
        list(pool.map(lambda each: each.delete(config), endpoints))
    assert driver.held() == driver.pools() == []
    assert driver.methods().count("ReleasePool") == 1


def test_gc(driver: Driver, endpoint: MakeEndpoint) -> None:
    """Addresses of attachments that are not valid go back, those of others stay."""
    config = network()
    stays, goes = endpoint(), endpoint()
    result = stays.add(config)
    goes.add(config)
    stays.call("GC", cni.collected(config, stays)).silent()
    assert driver.held() == ["10.90.0.1", "10.90.0.2"]
    stays.check(config, result).silent()
    shutil.rmtree("/run/cnm/blue")  # after a reboot nobody is valid
    stays.call("GC", cni.collected(config)).silent()
    assert driver.held() == driver.pools() == []


def test_same_subnet_again(driver: Driver, endpoint: MakeEndpoint) -> None:
    """A network without endpoints keeps its subnet if the driver still has it."""
    config = network()
    eth0, eth1 = endpoint(), endpoint()
    eth0.add(config)
    green = config | {"name": "green", "bridge": "green0"}
    eth1.add(green)
    eth0.delete(config)
    eth1.delete(green)
    assert cni.addresses(eth1.add(green)) == ["10.90.1.2"]
    eth0.add(config | {"name": "red", "bridge": "red0"})
    assert cni.addresses(eth0.other("eth1").add(config | {"bridge": "blue1"})) == ["10.90.2.2"]


def test_another_pool_while_in_use(driver: Driver, endpoint: MakeEndpoint) -> None:
    """The configuration may ask for another pool when the last endpoint is gone."""
    eth0, eth1 = endpoint(), endpoint()
    eth0.add(network())
    other = network(subnet="10.5.0.0/24") | {"forceAddress": True}
    error = eth1.call("ADD", other).error(INVALID_CONFIG)
    assert "10.90.0.0/24" in error["msg"] and "blue" in error["msg"]
    eth0.delete(other)
    assert cni.addresses(eth1.add(other)) == ["10.5.0.2"]
    assert driver.pools() == ["10.5.0.0/24"]


@pytest.mark.parametrize("options", [(), ("--replays",)], ids=["keeps", "replays"])
def test_over_tcp(run: Run, endpoint: MakeEndpoint, options: tuple[str, ...]) -> None:
    """Found by a .spec file; one that forgets what it gave is told again when it refuses."""
    (SPECS[0] / "custom.spec").write_text("tcp://127.0.0.1:7090\n")
    driver = run("custom", *options, listen="127.0.0.1:7090")
    config = network()
    eth0, eth1 = endpoint(), endpoint()
    eth0.add(config)
    driver.restart()
    driver.forget()
    if not options:
        error = eth1.call("ADD", config).error(PLUGIN_SPECIFIC)
        assert "unknown pool pool-1" in error["msg"]
        eth0.delete(config)
        return
    assert cni.addresses(eth1.add(config)) == ["10.90.0.3"]
    assert driver.held() == ["10.90.0.1", "10.90.0.2", "10.90.0.3"]
    eth0.delete(config)
    eth1.delete(config)
    assert driver.held() == driver.pools() == []


@pytest.mark.parametrize("linked", [False, True])
def test_by_json_file(run: Run, endpoint: MakeEndpoint, tmp_path: Path, linked: bool) -> None:
    """Found by a .json file, which may be a link, at an IPv6 address."""
    path = tmp_path / "custom.json" if linked else SPECS[1] / "custom.json"
    path.write_text('{"Addr": "http://[::1]:7090"}')
    if linked:
        (SPECS[1] / "custom.json").symlink_to(path)
    run("custom", listen="[::1]:7090")
    assert cni.addresses(endpoint().add(network())) == ["10.90.0.2"]


class Tls:
    """A driver at https://127.0.0.1:7090 that asks for client certificates, and its .json file."""

    def __init__(self, directory: Path, run: Run) -> None:
        self.authority = certificates.authority(directory)
        self.stranger = certificates.authority(directory, "stranger")
        server = certificates.signed(directory, self.authority, "server", "IP:127.0.0.1")
        self.client = certificates.signed(directory, self.authority, "client", "DNS:client")
        files = (server.certificate, server.key, self.authority.certificate)
        run("custom", "--tls", *map(str, files), listen="0.0.0.0:7090")

    def describe(self, host: str = "127.0.0.1", **changes: object) -> None:
        """Write the .json file, with TLSConfig changed."""
        config = {
            "CAFile": str(self.authority.certificate),
            "CertFile": str(self.client.certificate),
            "KeyFile": str(self.client.key),
            **changes,
        }
        document = {"Name": "custom", "Addr": f"https://{host}:7090", "TLSConfig": config}
        (SPECS[0] / "custom.json").write_text(json.dumps(document))


@pytest.fixture
def tls(run: Run, tmp_path: Path) -> Tls:
    """The driver behind TLS."""
    return Tls(tmp_path, run)


def test_tls(tls: Tls, endpoint: MakeEndpoint) -> None:
    """Server and client show certificates that the other side's authority has signed."""
    tls.describe()
    eth0 = endpoint()
    result = eth0.add(network())
    assert cni.addresses(result) == ["10.90.0.2"]
    eth0.delete(network(), result)


@pytest.mark.parametrize("changes", [{"InsecureSkipVerify": True}, {"CAFile": ""}])
def test_tls_without_verification(tls: Tls, endpoint: MakeEndpoint, changes: Config) -> None:
    """As Docker has it: nobody is verified if told so, or where no authority is named."""
    tls.describe("127.0.0.2", **changes)
    assert cni.addresses(endpoint().add(network())) == ["10.90.0.2"]


def test_tls_is_refused(tls: Tls, endpoint: MakeEndpoint) -> None:
    """A stranger's certificate, another host's, and none of ours: each is told."""
    eth0 = endpoint()
    tls.describe(CAFile=str(tls.stranger.certificate))
    assert "self-signed certificate in certificate chain" in refused(eth0, TRY_AGAIN_LATER)
    tls.describe("127.0.0.2")
    assert "IP address mismatch" in refused(eth0, TRY_AGAIN_LATER)
    tls.describe("localhost")
    assert "hostname mismatch" in refused(eth0, TRY_AGAIN_LATER)
    tls.describe(CertFile="", KeyFile="")
    assert "broke off" in refused(eth0, TRY_AGAIN_LATER)  # an alert, or less than that


@pytest.mark.parametrize("key", ["CAFile", "CertFile", "KeyFile"])
def test_tls_files(tls: Tls, endpoint: MakeEndpoint, tmp_path: Path, key: str) -> None:
    """A file that is missing, or none of its kind, is named."""
    eth0 = endpoint()
    path = tmp_path / "nothing.pem"
    tls.describe(**{key: str(path)})
    assert str(path) in refused(eth0, INVALID_CONFIG)
    path.write_text("nothing")
    assert str(path) in refused(eth0, INVALID_CONFIG)


def test_no_tls_behind_https(run: Run, endpoint: MakeEndpoint) -> None:
    """A server that speaks plain HTTP, and one that has no certificate of a known authority."""
    (SPECS[0] / "custom.spec").write_text("https://127.0.0.1:7090")
    run("custom", listen="127.0.0.1:7090")
    assert "wrong version number" in refused(endpoint(), TRY_AGAIN_LATER)


def refused(eth0: Endpoint, code: int) -> str:
    """The message of an ADD that fails, which names the driver."""
    message: str = eth0.call("ADD", network()).error(code)["msg"]
    assert 'IPAM driver "custom"' in message
    return message


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "is not JSON"),
        ("[]", "must be an object, got []"),
        ("{}", "Addr: is missing"),
        ('{"Addr": "https://h", "TLSConfig": {"CAFile": "ca.pem"}}', "must be an absolute path"),
        ('{"Addr": "ftp://x"}', 'got "ftp://x"'),
    ],
)
def test_bad_file(
    node: None, run: Run, endpoint: MakeEndpoint, content: str, complaint: str
) -> None:
    """A file that makes no sense is named."""
    path = SPECS[0] / "custom.json"
    path.write_text(content)
    error = endpoint().call("ADD", network()).error(INVALID_CONFIG)
    assert str(path) in error["msg"] and complaint in error["msg"]


def test_restart_with_replay(run: Run, endpoint: MakeEndpoint) -> None:
    """A driver that wants it is told pools and addresses again, by whichever call comes next."""
    driver = run("custom", "--replays")
    config = network(ipv6=True)
    eth0, eth1, eth2 = endpoint(), endpoint(), endpoint()
    eth0.add(config)
    eth1.add(config)
    driver.restart()
    driver.forget()
    assert cni.addresses(eth2.add(config)) == ["10.90.0.4", "fd00:90::4"]
    assert driver.methods().count("RequestPool") == 2
    assert len(driver.held()) == 8
    driver.restart()
    driver.forget()
    eth0.delete(config)
    assert len(driver.held()) == 6
    eth1.delete(config)
    eth2.delete(config)
    assert driver.held() == driver.pools() == []


def test_driver_is_away(driver: Driver, endpoint: MakeEndpoint) -> None:
    """ADD and STATUS say so; DEL succeeds, and the driver hears of it later."""
    config = network()
    eth0, eth1, eth2 = endpoint(), endpoint(), endpoint()
    eth0.add(config)
    eth1.add(config)
    socket = Path(driver.listen)
    hidden = socket.rename(socket.with_suffix(".away"))
    error = eth2.call("ADD", config).error(TRY_AGAIN_LATER)
    assert 'IPAM driver "custom"' in error["msg"] and driver.listen in error["details"]
    assert eth2.call("STATUS", config).error(NOT_AVAILABLE)["msg"] == error["msg"]
    outcome = eth0.call("DEL", config)
    assert (outcome.code, outcome.stdout) == (0, b"")
    assert b'IPAM driver "custom"' in outcome.stderr and b"10.90.0.2" in outcome.stderr
    assert driver.held() == ["10.90.0.1", "10.90.0.2", "10.90.0.3"]
    hidden.rename(socket)
    eth2.call("STATUS", config).silent()
    assert cni.addresses(eth2.add(config)) == ["10.90.0.4"]
    assert driver.held() == ["10.90.0.1", "10.90.0.3", "10.90.0.4"]
    socket.rename(hidden)
    for each in (eth1, eth2):
        assert each.call("DEL", config).code == 0
    assert driver.pools() == ["10.90.0.0/24"]
    hidden.rename(socket)
    eth0.call("GC", cni.collected(config)).silent()
    assert driver.held() == driver.pools() == []


def test_nobody_listens(run: Run, endpoint: MakeEndpoint) -> None:
    """A socket file that a killed driver left is told from one that is missing."""
    driver = run()
    driver.stop()
    error = endpoint().call("ADD", network()).error(TRY_AGAIN_LATER)
    assert f"unix://{driver.listen} refused the connection" in error["msg"]


GARBAGE = [
    ({"raw": "SSH-2.0-OpenSSH_9.2\r\n"}, '"SSH-2.0-OpenSSH_9.2" instead of a status line'),
    ({"body": "<html>"}, "what is no JSON"),
    ({"body": "[]"}, "no object"),
    ({"answer": {}}, "no Address"),
    ({"answer": {"Address": 5}}, "no Address"),
    ({"answer": {"Address": "x" * 5000}}, "no Address"),
    ({"answer": {"Address": "banana"}}, 'got "banana"'),
    ({"answer": {"Address": "10.90.0.7"}}, 'got "10.90.0.7"'),
    ({"answer": {"Address": "10.91.0.7/24"}}, "outside of pool 10.90.0.0/24"),
    ({"answer": {"Address": "fd00::7/64"}}, "outside of pool 10.90.0.0/24"),
    ({"answer": {"Address": "10.90.0.0/24"}}, "means all of pool"),
    ({"answer": {"Address": "10.90.0.255/24"}}, "broadcast address of pool"),
    ({"answer": {"Address": "10.90.0.7/16"}}, "larger than pool"),
    ({"answer": {"Address": "10.90.0.1/24"}}, 'is held by "gateway"'),
    ({"body": '{"Address": "' + "x" * (2 << 20) + '"}'}, "more than 1048576 bytes"),
    ({"status": 500, "body": "out of\npaper"}, "refused IpamDriver.RequestAddress: out of paper"),
    ({"status": 500, "body": '{"Err": "no ink"}'}, "refused IpamDriver.RequestAddress: no ink"),
    ({"status": 404, "body": "page not found"}, "does not know IpamDriver.RequestAddress"),
    ({"answer": {"Error": "grid is down"}}, "refused IpamDriver.RequestAddress: grid is down"),
]


@pytest.mark.parametrize(("fault", "complaint"), GARBAGE)
def test_wrong_answer(
    driver: Driver, endpoint: MakeEndpoint, fault: Config, complaint: str
) -> None:
    """Its answer is told with its name; nothing stays, and what it gave is given back."""
    config = network()
    eth0, eth1 = endpoint(), endpoint()
    result = eth0.add(config)
    driver.break_(RequestAddress=fault)
    driver.forget()
    error = eth1.call("ADD", config).error(PLUGIN_SPECIFIC)
    assert 'IPAM driver "custom"' in error["msg"] and complaint in error["msg"]
    given = fault.get("answer", {}).get("Address", "")
    if "pool" in complaint:
        expected = {"PoolID": "pool-1", "Address": given.partition("/")[0]}
        assert driver.called("ReleaseAddress") == [expected]
    else:
        assert driver.called("ReleaseAddress") == []
    assert "eth0" not in eth1.netns.links()
    eth0.check(config, result).silent()
    driver.break_()
    assert cni.addresses(eth1.add(config)) in (["10.90.0.3"], ["10.90.0.4"])


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ({"answer": {"PoolID": "", "Pool": "10.9.0.0/24"}}, "no PoolID"),
        ({"answer": {"PoolID": "p"}}, "no Pool"),
        ({"answer": {"PoolID": "p", "Pool": "fd00::/64"}}, "not IPv4"),
        ({"answer": {"PoolID": "p", "Pool": "10.9.0.0/24"}}, "10.5.0.0/24 was asked for"),
        ({"answer": {"PoolID": "p", "Pool": "0.0.0.0/0"}}, "10.5.0.0/24 was asked for"),
        (
            {"answer": {"PoolID": "p", "Pool": "10.5.0.0/24", "Data": {GATEWAY: "1.1.1.1/24"}}},
            "gateway 1.1.1.1/24, which is outside",
        ),
    ],
)  # fmt: skip
def test_wrong_pool(driver: Driver, endpoint: MakeEndpoint, fault: Config, complaint: str) -> None:
    """The same for pools."""
    config = network(subnet="10.5.0.0/24")
    driver.break_(RequestPool=fault)
    eth0 = endpoint()
    error = eth0.call("ADD", config).error(PLUGIN_SPECIFIC)
    assert 'IPAM driver "custom"' in error["msg"] and complaint in error["msg"]
    given = fault["answer"]["PoolID"]
    assert driver.called("ReleasePool") == ([{"PoolID": given}] if given else [])
    driver.break_()
    assert cni.addresses(eth0.add(config)) == ["10.5.0.2"]


def test_gateway_with_the_pool(driver: Driver, endpoint: MakeEndpoint) -> None:
    """A gateway that comes with the pool is no address to be requested or given back."""
    data = {GATEWAY: "10.5.0.9/24"}
    answer = {"PoolID": "p", "Pool": "10.5.0.0/24", "Data": data}
    driver.break_(
        RequestPool={"answer": answer},
        RequestAddress={"answer": {"Address": "10.5.0.2/24"}},
        ReleaseAddress={"answer": {}},
        ReleasePool={"answer": {}},
    )
    eth0 = endpoint()
    result = eth0.add(network(subnet="10.5.0.0/24"))
    assert result["ips"][0]["gateway"] == "10.5.0.9"
    eth0.delete(network())
    assert driver.called("ReleaseAddress") == [{"PoolID": "p", "Address": "10.5.0.2"}]


def test_address_twice(driver: Driver, endpoint: MakeEndpoint) -> None:
    """The second to be given an address does not get it, and the first keeps it."""
    config = network()
    eth0, eth1 = endpoint(), endpoint()
    result = eth0.add(config)
    driver.break_(RequestAddress={"answer": {"Address": "10.90.0.2/24"}})
    error = eth1.call("ADD", config).error(PLUGIN_SPECIFIC)
    assert "10.90.0.2" in error["msg"] and eth0.container_id in error["msg"]
    assert driver.called("ReleaseAddress") == []
    eth0.check(config, result).silent()


def test_slow(driver: Driver, endpoint: MakeEndpoint) -> None:
    """Patience ends; what was heard too late is not given twice."""
    config = network(timeoutSeconds=2)
    eth0, eth1 = endpoint(), endpoint()
    eth0.add(network())
    driver.break_(RequestAddress={"sleep": 5})
    error = eth1.call("ADD", config).error(TRY_AGAIN_LATER)
    assert "did not answer within 2 s" in error["msg"] and "RequestAddress" in error["msg"]
    driver.break_(ReleaseAddress={"sleep": 5})
    outcome = eth0.call("DEL", config)
    assert (outcome.code, outcome.stdout) == (0, b"")
    assert b"10.90.0.2 may still be held there" in outcome.stderr


@pytest.mark.parametrize("fault", [{"die": "before"}, {"die": "middle"}, {"close": True}])
def test_dies_in_the_middle(driver: Driver, endpoint: MakeEndpoint, fault: Config) -> None:
    """Half an answer is none."""
    eth0 = endpoint()
    driver.break_(RequestAddress=fault)
    error = eth0.call("ADD", network()).error(TRY_AGAIN_LATER)
    assert "closed the connection in the middle of its answer" in error["msg"]
    driver.break_()
    driver.restart()
    assert cni.addresses(eth0.add(network())) == ["10.90.0.2"]


def test_chunked(driver: Driver, endpoint: MakeEndpoint) -> None:
    """Answers without a length, as Go's server sends long ones."""
    driver.break_(RequestPool={"chunked": True}, RequestAddress={"chunked": True})
    assert cni.addresses(endpoint().add(network())) == ["10.90.0.2"]


def test_release_is_refused(driver: Driver, endpoint: MakeEndpoint) -> None:
    """DEL succeeds; the driver is asked again while it gives addresses, and then no more."""
    config = network()
    eth0, eth1, eth2 = endpoint(), endpoint(), endpoint()
    eth0.add(config)
    eth1.add(config)
    driver.break_(ReleaseAddress={"answer": {"Error": "grid is down"}})
    outcome = eth0.call("DEL", config)
    assert outcome.code == 0 and b"grid is down" in outcome.stderr
    outcome = eth2.call("ADD", config)
    assert outcome.code == 0 and b"grid is down; 10.90.0.2 is given up" in outcome.stderr
    driver.forget()
    endpoint().add(config)
    assert driver.methods() == ["RequestAddress"]


def test_killed(driver: Driver, endpoint: MakeEndpoint) -> None:
    """An ADD that is killed while the driver thinks leaves nothing that the next calls keep."""
    config = network()
    eth0, eth1 = endpoint(), endpoint()
    driver.break_(RequestAddress={"sleep": 1})
    eth0.kill("ADD", config, 0.5)
    driver.break_()
    assert len(cni.addresses(eth1.add(config))) == 1
    eth0.delete(config)
    eth1.delete(config)
    assert not [path for path in RECORDS.rglob("*/*/*") if path.is_file() or path.is_symlink()]


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ({"driver": ""}, "ipam.driver: is missing"),
        ({"driver": "../x"}, "ipam.driver: must begin with a letter or digit"),
        ({"ipRange": "10.5.0.0/24"}, "ipam.pools[0].ipRange: needs a subnet"),
        ({"subnet": "10.5.0.0/24", "ipRange": "10.6.0.0/24"}, "10.6.0.0/24 is not inside"),
        ({"subnet": "10.5.0.0/24", "gateway": "10.6.0.1"}, "10.6.0.1 is not in 10.5.0.0/24"),
        ({"subnet": "10.5.0.0/24", "pools": [{}]}, "ipam.subnet: is short for ipam.pools"),
        ({"options": {"a": 1}}, "ipam.options.a: must be a string, got 1"),
        ({"timeoutSeconds": 0}, "ipam.timeoutSeconds: must be a whole number from 1 to 600, got 0"),
    ],
)
def test_bad_config(
    driver: Driver, endpoint: MakeEndpoint, members: Config, complaint: str
) -> None:
    """A configuration that cannot be meant is refused before the driver is asked."""
    error = endpoint().call("ADD", network(**members)).error(INVALID_CONFIG)
    assert complaint in error["msg"]
    assert driver.methods() == []


def test_damaged_records(driver: Driver, endpoint: MakeEndpoint) -> None:
    """ADD names the file; DEL works without it."""
    config = network()
    eth0, eth1 = endpoint(), endpoint()
    eth0.add(config)
    record = RECORDS / "blue/network"
    record.write_text('{"format": 1}')
    error = eth1.call("ADD", config).error(PLUGIN_SPECIFIC)
    assert str(record) in error["msg"] and str(record.parent) in error["details"]
    outcome = eth0.call("DEL", config)
    assert outcome.code == 0 and str(record).encode() in outcome.stderr
