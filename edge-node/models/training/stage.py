"""Runs one stage of make_all.sh and notes its wall and processor time in the cache folder.

    python stage.py NAME SCRIPT [ARGUMENTS]
"""

import json
import resource
import subprocess
import sys
import time

from data import CACHE

LOG = CACHE / "stages.jsonl"


def main():
    name, *command = sys.argv[1:]
    begun = time.time()
    code = subprocess.call([sys.executable, *command])
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    CACHE.mkdir(parents=True, exist_ok=True)
    row = {"stage": name, "begun": begun, "wall_s": time.time() - begun, "processor_s": used.ru_utime + used.ru_stime}
    with LOG.open("a") as log:
        log.write(json.dumps(row) + "\n")
    print(f"stage {name}: {row['wall_s']:.0f} s, {row['processor_s']:.0f} s of processor time", flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
