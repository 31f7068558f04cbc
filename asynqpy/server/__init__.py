"""The Server and its background tasks, one file each; ``server.py`` puts them together."""
