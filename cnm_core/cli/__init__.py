"""The `cnm` command: networks with a life of their own, for which CNI has no verb."""
