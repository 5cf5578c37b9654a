"""The memory of this process as broker and results store: what tests run on, and the executable specification."""
