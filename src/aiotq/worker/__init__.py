"""Running tasks: intake, execution, commit, and the life of a worker, one file each. Loaded only by who runs tasks."""
