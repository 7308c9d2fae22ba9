"""Makes model versions: from past posts to a directory that the service can load."""
