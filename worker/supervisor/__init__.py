"""The parts of the master: what it decides, and what it does to processes, sockets and files.

Nothing here is needed to serve a request, and nothing here imports what does: the master imports this package, and must
stay small. ``master.py`` puts the parts together.
"""
