"""aiocluster's side: serve an app given by its import string, with the default settings.

python -m benchmarks.apps.serve APP WORKERS HOST:PORT [OTHER SETTINGS AS JSON]
"""

import json
import sys

import aiocluster

if __name__ == "__main__":
    app, workers, address, *others = sys.argv[1:]
    settings = json.loads(others[0]) if others else {}
    print(f"serving on {address}", flush=True)
    aiocluster.run(app, workers=int(workers), bind=address, **settings)
