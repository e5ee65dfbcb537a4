"""This host's ends of tunnels where it has no encrypted network; the guest has the others."""

from pathlib import Path

import pytest

from cnm_core.config.overlay import overlay_config
from cnm_core.drivers.tunnel import Tunnel
from cnm_core.drivers.tunnel_esp import EspTunnel
from cnm_core.kernel.netlink import Socket
from cnm_core.store.entries import Member
from cnm_core.store.membership import open_membership


@pytest.mark.parametrize(
    ("kind", "file"), [(Tunnel, ".wireguard.key"), (EspTunnel, ".esp.key")], ids=["wg", "esp"]
)
def test_no_network(node: None, tmp_path: Path, kind: type[Tunnel | EspTunnel], file: str) -> None:
    """There is nothing to do, whatever the kernel can; and the next network has another key."""
    directories = {"stateDir": str(tmp_path / "run"), "dataDir": str(tmp_path / "lib")}
    document = {"subnets": [], "store": {"directory": str(tmp_path / "store")}, **directories}
    options = overlay_config(document)
    tunnel = kind(Socket(), options, open_membership(options, lambda error: None))
    assert tunnel.reconcile() == (0, 0)
    assert tunnel.rotate() == b""
    key = tmp_path / "lib/.cnm" / file
    key.write_text("somebody may have seen it")
    assert tunnel.rotate() == b""
    assert not key.exists()
    (drift,) = tunnel.drift(Member("one", bytes((10, 0, 0, 1)), 1450))
    assert drift.found == "no such link"
    assert not (tmp_path / "store").exists()  # nobody was asked
