"""One watch per node: one worker watches the store, its siblings receive from it what has changed.

Whoever holds the lock (``election``) leads: it watches, and serves a unix socket (``leader``, one ``feed`` per
follower). Everyone else follows (``follower``). ``messages`` is what they say, ``history`` what the leader can
repeat, and ``provider`` decides between following and leading: read it first.
"""
