"""The ``fastnode`` command (extra ``cli``)."""
