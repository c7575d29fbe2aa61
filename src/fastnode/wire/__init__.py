"""The wire format, sans-IO: messages to frames, bytes to frames.

docs/wire-format.md is the normative description, byte by byte.
"""
