"""The pipeline of the bundled model: prepare, train, export, evaluate."""
