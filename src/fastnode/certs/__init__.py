"""Certificates: what a node shows, whom it trusts, and how both change."""
