"""The host-local-ipam plugin, also called host-local."""

from cnm_core.cni.ipam_plugin import HostLocalPlugin
from cnm_core.cni.main import run

run("host-local-ipam", HostLocalPlugin())
