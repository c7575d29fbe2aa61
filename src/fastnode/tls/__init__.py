"""TLS engines, and what they say of a peer."""
