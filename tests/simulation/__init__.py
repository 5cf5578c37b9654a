"""The real publisher, worker and scheduler under virtual time, with faults and an order of events by a seed."""
