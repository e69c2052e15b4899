"""aiocluster's side: serve an app given by its import string, with the default settings.

python -m benchmarks.apps.serve APP WORKERS HOST:PORT [POLICY]
"""

import sys

import aiocluster

if __name__ == "__main__":
    app, workers, address, *policy = sys.argv[1:]
    settings = {"policy": policy[0]} if policy else {}
    print(f"serving on {address}", flush=True)
    aiocluster.run(app, workers=int(workers), bind=address, **settings)
