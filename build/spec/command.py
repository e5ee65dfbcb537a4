"""Where the frozen command line starts."""

import os
import sys

# Or else the next file that is opened has the number of a closed stream.
for number in range(3):
    try:
        os.fstat(number)
    except OSError:
        os.open(os.devnull, os.O_RDWR)
sys.stdout = sys.stdout or os.fdopen(1, "w")
sys.stderr = sys.stderr or os.fdopen(2, "w")

# PyInstaller opens its archive by name for each module (extract in pyimod01_archive.py). Held
# open it stays this build's, when another is installed while an agent runs on.
archive = sys.modules["pyimod02_importers"].pyz_archive
archive._filename = f"/proc/self/fd/{os.open(archive._filename, os.O_RDONLY)}"

from cnm_core.cli.main import main  # noqa: E402

main()
