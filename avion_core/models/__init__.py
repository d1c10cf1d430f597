"""Architectures as the papers define them, their sizes as data, and the import of third-party weights."""
