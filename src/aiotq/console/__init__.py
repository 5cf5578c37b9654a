"""What the commands of `cli.py` are made of: their words, finding the app, running workers, showing things."""
