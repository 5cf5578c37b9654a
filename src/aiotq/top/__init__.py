"""A live view of an app's workers, queues, calls and periodic tasks in a terminal (`aiotq top`).

It reads what the registry, the broker, the ledger and events tell, and asks for nothing that `app` does not offer.
"""
