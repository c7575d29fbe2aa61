"""The sending side of links: queues of frames, and the queue budget of a node."""
