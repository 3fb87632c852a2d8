"""One file a peer: each is run by the Python of the peers' environment, and imports nothing of Kinetwin."""
