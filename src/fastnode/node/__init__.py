"""Nodes: acceptors, dialers and the links that they make."""
