"""What the cluster measures of itself: `instruments.py` (pure) is what a worker counts with,
`snapshot.py` (pure) is what the primary makes of it, merged over the workers; `process.py` asks
the operating system what a worker costs, and `feed.py` paces the snapshots a subscriber gets.
"""
