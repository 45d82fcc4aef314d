"""Does a reload, a crash or an upgrade lose a request? ``python -m benchmarks.reload --help``.

The load (``load.py``) and the upstream (``upstream.py``) are processes of their own; ``rig.py`` puts them together with
a real etcd and a real gateway; each of ``scenarios`` does one thing to the gateway and says what it cost the clients.
"""
