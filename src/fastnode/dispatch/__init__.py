"""The receiving side of a link, from a complete frame to the end of its handler."""
