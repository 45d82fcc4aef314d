"""The control interface (docs/reference/control-api.md): what is live, in which worker, at which revision.

``control`` leads a request to its handler in ``sync`` or ``config``; handlers are pure and return a message of
``messages``; ``http`` is the one shell around them. ``record`` is what each worker tells the others.
"""
