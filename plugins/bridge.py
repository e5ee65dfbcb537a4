"""The bridge plugin."""

from cnm_core.cni.main import run
from cnm_core.cni.network_plugin import NetworkPlugin
from cnm_core.drivers.bridge import Bridge

run("bridge", NetworkPlugin(Bridge))
