"""Collections moved to another place or another model."""
