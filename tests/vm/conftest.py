"""guest/ is for the guest: a plain pytest on the machine, whose kernel may lack it, leaves it."""

import os

collect_ignore = [] if "CNM_GUEST" in os.environ else ["guest"]
