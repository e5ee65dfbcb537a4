"""The CNI protocol: what a runtime sends and what it gets back. Never speaks netlink."""
