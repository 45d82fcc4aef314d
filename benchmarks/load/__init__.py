"""The gateway under load, beside nginx and HAProxy.

``scenarios`` says what is asked, ``sides`` how each proxy is run, ``run`` does the rounds, ``measure`` reads
what they cost, ``report`` shows it; ``propagation`` and ``memory`` answer a question each by themselves.
"""
