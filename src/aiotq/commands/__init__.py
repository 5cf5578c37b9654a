"""What `cli.py` is made of: one file a command, and what commands share."""
