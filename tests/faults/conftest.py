"""What is done to the plugins here is bounded for every run, or as long as asked for."""

import os

from hypothesis import settings

# CNM_FAULTS=long has every point of failure instead of a sample, and longer lives.
LONG = os.environ.get("CNM_FAULTS") == "long"

settings.register_profile("faults", deadline=None, print_blob=True)
settings.load_profile("faults")
