"""Orders: taken, receipted, shipped."""
