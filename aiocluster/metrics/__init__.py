"""What the cluster measures of itself: `instruments.py` (pure) is what a worker counts with,
`snapshot.py` (pure) is what is told of it, and `ledger.py` (pure) is how the primary merges it over
the workers; `process.py` asks the operating system what a worker costs, and `feed.py` paces the
snapshots a subscriber gets.
"""
