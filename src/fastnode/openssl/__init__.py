"""The libssl behind Python's `ssl` module, for what that module does not offer."""
