"""`python -m tests.chaos --kills 200 --jobs 300`: a studio of many processes that are killed again and again."""

import argparse
import json
import os
import sys
import time

import django


def main() -> int:
    """Run and print; 1 when anything was lost, doubled or left behind."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--webs", type=int, default=2)
    parser.add_argument("--pause", type=float, nargs=2, default=(0.5, 6.0), metavar=("LEAST", "MOST"))
    wanted = parser.parse_args()

    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    django.setup()
    from tests.chaos.run import chaos

    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {line}", file=sys.stderr, flush=True)

    say(f"seed {wanted.seed}")
    findings = chaos(
        kills=wanted.kills,
        jobs=wanted.jobs,
        seed=wanted.seed,
        webs=wanted.webs,
        pause=tuple(wanted.pause),
        say=say,
    )
    print(json.dumps({"seed": wanted.seed, **findings.counts, "faults": findings.faults}, indent=2))
    return 1 if findings.faults else 0


if __name__ == "__main__":
    sys.exit(main())
