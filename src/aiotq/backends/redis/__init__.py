"""Redis and Valkey: broker, records, ledger, bus and atomic commit."""
