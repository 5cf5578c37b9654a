"""`python -m aiotq`: the command line."""

# Child processes for tasks import this module, and have no use for the command line.
if __name__ == "__main__":
    from .cli import main

    main()
