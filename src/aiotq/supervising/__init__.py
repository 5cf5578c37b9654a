"""The small process above several workers. It loads nothing of the library but `core`: it stays as long as they do."""
