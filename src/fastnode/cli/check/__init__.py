"""``fastnode check``: one handshake, step by step."""
