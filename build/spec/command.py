"""Where the frozen command line starts."""

from cnm_core.cli.main import main

main()
