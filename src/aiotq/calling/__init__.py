"""One pipeline from a call or a workflow to the broker, and the connections that carry it."""
