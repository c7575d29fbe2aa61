"""Links: one TLS connection to a peer, joined with the frames that it carries."""
