"""The wire format, sans-IO: it makes frames of messages, and reads frames from bytes.

docs/wire-format.md is the normative description, byte by byte.
"""
