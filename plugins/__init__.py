"""One module an executable: which driver, nothing else."""

# The name of each executable, and the module here that it runs.
EXECUTABLES = {
    "bridge": "bridge",
    "host-local": "host_local_ipam",
    "host-local-ipam": "host_local_ipam",
    "ipvlan": "ipvlan",
    "loopback": "loopback",
    "macvlan": "macvlan",
    "portmap": "portmap",
    "static": "static",
}
