"""aiocluster's side: serve an app given by its import string, with the default settings.

python -m benchmarks.apps.serve APP WORKERS HOST:PORT
"""

import sys

import aiocluster

if __name__ == "__main__":
    app, workers, address = sys.argv[1:]
    print(f"serving on {address}", flush=True)
    aiocluster.run(app, workers=int(workers), bind=address)
