"""``propylon ctl``: what is in etcd, seen and changed from a terminal.

``command`` reads the command line; ``transfer`` holds import, export, diff and validate, ``past`` watch, history
and rollback. What they decide is pure: ``comparison`` (what differs), ``validation`` (what is wrong with values),
and ``config_sync.etcd.transactions`` (in which order and portions it is written). ``config_sync.etcd.store``
brings grpc, so it is imported by those commands alone that talk to etcd.
"""
