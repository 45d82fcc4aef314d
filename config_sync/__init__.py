"""How a changed key reaches a worker.

``settings`` is what the process was started with; everything else here is about what changes while it runs.
A provider (``provider``; ``etcd.sync`` and ``file``, between which ``providers`` chooses) delivers snapshots and
the events of whole revisions to the ``ConfigStore`` (``cache``), which decodes them with ``schema``, keeps the last
good value of each key, and tells its listeners once everything of the revision is in place; snapshots take the way of
``incoming``, in steps and past the ``guard``. ``last_good`` keeps what is live on disk. ``etcd.watch`` decides what to
ask etcd, and when; it is the file to read first. ``etcd.audit`` checks that nothing was lost, and ``relay`` shares one
watch among the workers of a node.
"""
