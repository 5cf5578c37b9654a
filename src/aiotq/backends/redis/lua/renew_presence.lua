-- Write a worker's row of the fleet registry.
-- ARGV: the row (see `fleet_rows`).
-- RETURNS: 1.
write_fleet_row(args[1])
return 1
