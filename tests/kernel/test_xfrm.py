"""IPsec policies as the kernel has them, and networks by ESP on a kernel without it."""

from pathlib import Path

import pytest

from cnm_core.errors import KernelRefused
from cnm_core.inet import parse_ip
from cnm_core.kernel.netlink import Socket
from cnm_core.kernel.xfrm import IN, OUT, Policy, Xfrm, has_interfaces
from tests import cni
from tests.hosts import cluster
from tests.iproute import HOST, Netns

ONE, OTHER = map(parse_ip, ("fe80::a63:1", "fe80::a63:2"))
NEAR, FAR = map(parse_ip, ("10.99.0.1", "10.99.0.2"))


def listed() -> str:
    """What iproute2 says of policies, in one line."""
    return " ".join(HOST.run(["ip", "xfrm", "policy"]).split())


def test_policies(node: None) -> None:
    """They are what iproute2 lists; those of others are not seen, and not touched."""
    somebody_elses = ["src", "192.0.2.0/24", "dst", "0.0.0.0/0", "dir", "out", "if_id", "9"]
    HOST.ip("xfrm", "policy", "add", *somebody_elses, "action", "block")
    before = listed()
    kernel = Xfrm(7)
    out = Policy(OUT, ONE, OTHER, NEAR, FAR, 0x12345678)
    into = Policy(IN, OTHER, ONE, FAR, NEAR)
    kernel.set_policies([out, into])
    assert kernel.policies() == {out, into}
    tunnel = "tmpl src 10.99.0.1 dst 10.99.0.2 proto esp spi 0x12345678 reqid 1 mode tunnel"
    wanted = f"src fe80::a63:1/128 dst fe80::a63:2/128 dir out priority 0 ptype main {tunnel}"
    assert wanted in listed()
    tunnel = "tmpl src 10.99.0.2 dst 10.99.0.1 proto esp reqid 1 mode tunnel if_id 0x7"
    assert f"dir in priority 0 ptype main {tunnel}" in listed()
    kernel.set_policies([out.replace(spi=0x999)], [into])
    assert kernel.policies() == {out.replace(spi=0x999)}
    blocking = ["src", "fe80::a63:1", "dst", "fe80::a63:2", "dir", "out", "if_id", "7"]
    HOST.ip("xfrm", "policy", "update", *blocking, "action", "block")
    assert kernel.policies() == {Policy(OUT, ONE, OTHER, b"", b"")}
    kernel.clear()
    assert kernel.policies() == set()
    assert listed() == before


def test_kernel_without(node: None, tmp_path: Path, cni_bin: Path) -> None:
    """A host that cannot encrypt says so, and nothing is made; also before there is a network."""
    try:
        Xfrm(7).try_out(NEAR)
        able = has_interfaces(Socket(), "esp-cnm")
    except KernelRefused:
        able = False
    if able:
        pytest.skip("this kernel has ESP; make test-vm tries it there")
    with cluster(1, tmp_path, cni_bin) as ((host,), etcd):
        config = host.network(encrypted="esp")
        HOST.ip("netns", "add", "none")
        try:
            error = host.call("ADD", config, Netns("none")).error(50)
        finally:
            HOST.ip("netns", "delete", "none")
        assert error["msg"].startswith("encrypted: this host's kernel has no ")
        assert "nothing goes out unencrypted" in error["msg"]
        host.call("STATUS", config, HOST).error(50)
        create = ["network", "create", "-d", "overlay", "--subnet", "10.7.0.0/24", "blue"]
        refusal = "encrypted: this host's kernel has no "
        host.cnm().call(*create, "-o", "encrypted=esp").fails(1, refusal)
        assert set(host.netns.links()) == {"lo", "uplink"}
        assert etcd.keys() == {}
        wrong = host.call("ADD", {**config, "encrypted": "ipsec"}, HOST)
        assert 'must be true, false or "esp"' in wrong.error(cni.INVALID_CONFIG)["msg"]
