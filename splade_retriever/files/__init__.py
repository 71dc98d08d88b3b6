"""Files: finding them, reading them as passages, and keeping a collection in step with them."""
