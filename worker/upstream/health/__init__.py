"""Health checks of upstreams' targets (upstreams.md section 8).

``machine`` decides what a report makes of a target's state; ``table`` is the memory in which all processes see the
states; ``checker`` compiles the ``checks`` of an upstream, ``registry`` knows those of a worker and tells their
balancers; ``passive`` collects what requests show, ``reports`` hands it over. One worker at a time is the prober:
``lease`` and ``monitor`` choose it, ``schedule`` says when to probe whom, ``probe`` does it, ``prober`` wires them.
"""
