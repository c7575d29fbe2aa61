"""Links: a TLS connection to a peer, and the frames on it."""
