"""Copying a collection to another place, and encoding it again with another model."""
