"""What brokers' connections have in common: reading their URLs, and being kept open."""
