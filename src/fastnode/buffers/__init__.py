"""Memory for receiving and sending: slabs and the pool that owns them, large
payloads that are used again."""
