"""Files to passages, and a collection kept in step with them."""
