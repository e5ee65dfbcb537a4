"""What the kernel is asked, and how. Knows nothing of CNI or of the network model."""
