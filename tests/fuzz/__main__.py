"""Fuzz all targets, or some; status 1 if an input crashed one. Logs and inputs are kept."""

import argparse
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
NAMES = tuple(sorted(each.name for each in (HERE / "corpus").iterdir()))
_UNSHARE = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


def main() -> None:
    """Become the engine in namespaces of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for all targets together")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs; 0 is another each time")
    parser.add_argument("--kept", type=Path, default=ROOT / ".build/fuzz", help="a directory")
    parser.add_argument("targets", nargs="*", choices=[[], *NAMES], metavar="TARGET")
    options = parser.parse_args()
    command = [*_UNSHARE, sys.executable, "-m", "tests.fuzz.engine"]
    command += ["--seconds", str(options.seconds), "--seed", str(options.seed)]
    command += ["--kept", str(options.kept.absolute()), *(options.targets or NAMES)]
    os.chdir(ROOT)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
