"""The one file behind all executables: it is the plugin by whose name it was called."""

import sys

from plugins import EXECUTABLES

name = sys.argv[0].rpartition("/")[2]
if name not in EXECUTABLES:
    sys.exit(f"{name}: is no plugin; call this file by one of {', '.join(EXECUTABLES)}")
__import__(f"plugins.{EXECUTABLES[name]}")
