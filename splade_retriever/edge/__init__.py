"""qdrant-client's interface on Qdrant Edge: an index in a folder, without a server."""
