"""What a link sends: queues of frames, and how many bytes a node may queue."""
