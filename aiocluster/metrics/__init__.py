"""The metrics of a cluster and its workers.

instruments.py                      histogram, lag meter and window, with which a worker counts
snapshot.py                         the records that subscribers get
aggregator.py, role_aggregators.py  how the primary merges reports over workers and time
feed.py                             paces the snapshots that a subscriber gets
process.py                          CPU and memory of a worker, from the operating system
"""
