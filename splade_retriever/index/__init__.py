"""Documents in, hits out, over one collection of any store."""
