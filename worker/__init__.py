"""One worker process of the gateway.

``process`` is a worker's life and wires the rest; ``context`` is what its parts share. ``http`` speaks HTTP:
begin with ``http.serve``, which carries one request from match to log. ``routing`` finds the route,
``upstream`` the peer and its connection, ``switcher`` turns changed configuration into what those two use,
``janitor`` ends what has waited too long, ``observability`` writes the logs. ``supervisor`` is the master's: it has its
parts, and nothing that serves requests.
"""
