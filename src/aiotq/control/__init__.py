"""Operating: queues, dead letters, revocation."""
