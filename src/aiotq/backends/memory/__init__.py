"""The memory of this process: broker, records, ledger, bus and commit. Tests run on it; it is the specification."""
