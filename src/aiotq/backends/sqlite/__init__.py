"""One SQLite file, shared by the processes of one machine, as broker, results store and atomic commit."""
