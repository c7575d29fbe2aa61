"""``fastnode demo``: two nodes in two processes show what the library does."""
