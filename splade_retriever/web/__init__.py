"""The search page: a server for an index, and pages that need none."""
