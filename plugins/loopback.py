"""The loopback plugin."""

from cnm_core.cni.loopback_plugin import LoopbackPlugin
from cnm_core.cni.main import run

run("loopback", LoopbackPlugin())
