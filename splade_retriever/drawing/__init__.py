"""How vectors, hits and explanations are drawn: one palette for the search page, notebooks and plots."""
