"""One SQLite file, shared by the processes of one machine: broker, records, ledger, bus and atomic commit."""
