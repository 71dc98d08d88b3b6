"""Experiments on training the bundled model."""
