"""Network drivers: one file each, from top to bottom config, create, join, leave, check."""
