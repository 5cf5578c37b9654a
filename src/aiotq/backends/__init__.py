"""One room a system that keeps messages or records; loaded when a URL first names it."""
