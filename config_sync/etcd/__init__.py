"""etcd as a provider: ``watch`` decides, ``sync`` does, ``client`` talks HTTP/1.1, ``messages`` is the language."""
