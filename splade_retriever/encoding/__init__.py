"""Text to sparse vectors."""
