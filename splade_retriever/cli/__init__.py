"""The `splade` command."""
