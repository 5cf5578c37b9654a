"""aiotq and other task queues, each as its documentation says it is fastest, measured in turn (`make bench-peers`).

Each system is a script of its own, a client which starts its worker; those of others are run by `.venv-peers`.
"""
