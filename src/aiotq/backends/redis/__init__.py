"""Redis and Valkey as broker, results store and atomic commit."""
