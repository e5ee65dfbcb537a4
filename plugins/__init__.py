"""One module an executable: which driver, nothing else."""

# The name of each executable, and the module here that it runs.
EXECUTABLES = {
    "bridge": "bridge",
    "host": "host",
    "host-local": "host_local_ipam",
    "host-local-ipam": "host_local_ipam",
    "ipvlan": "ipvlan",
    "loopback": "loopback",
    "macvlan": "macvlan",
    "none": "none",
    "overlay": "overlay",
    "portmap": "portmap",
    "static": "static",
}
