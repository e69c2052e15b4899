"""What the cluster measures of itself.

instruments.py                      what a worker counts with
snapshot.py                         what subscribers get
aggregator.py, role_aggregators.py  how the primary merges reports over workers and time
feed.py                             paces the snapshots that a subscriber gets
process.py                          what a worker costs, from the operating system
"""
