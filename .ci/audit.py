"""Has pip-audit look up the locked packages in the OSV database. Run by `make audit`, and by `make check` with `--brief`.

It cannot work offline: what is known changes by the day, and only the database knows it. So it is asked first, and not
for long, whether it is there.
"""

import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements-dev.lock"
#: How long the database may take to answer at all, in seconds.
REACH_SECONDS = 3
#: And for all packages.
AUDIT_SECONDS = 60


def main(*, brief: bool) -> int:
    """The exit status. With `brief`, a database that is away is no failure, nor is under CI what is newly known."""
    service = os.environ.get("OSV_URL", "https://api.osv.dev/v1/query")
    if problem := _unreachable(service):
        print(f"\n*** SKIPPED: pip-audit. {service} cannot be reached ({problem}). ***")
        print("*** Known vulnerabilities of the locked packages were NOT looked up. ***\n")
        return 0 if brief else 1
    arguments = ["--requirement", str(LOCK), "--no-deps", "--disable-pip", "--progress-spinner", "off"]
    try:
        ended = subprocess.run(
            [
                sys.executable,
                "-m",
                "pip_audit",
                *arguments,
                "--vulnerability-service",
                "osv",
                "--osv-url",
                service,
            ],
            timeout=AUDIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        print(f"\n*** SKIPPED: pip-audit. The answers took longer than {AUDIT_SECONDS} s. ***\n")
        return 0 if brief else 1
    if ended.returncode and brief and os.environ.get("CI"):
        print("\n*** WARNING: the packages named above have known vulnerabilities. `make audit` fails. ***\n")
        return 0
    return ended.returncode


def _unreachable(service: str) -> str:
    """Why the database cannot be asked; "" when it can. Any answer of HTTP will do."""
    if not service.startswith(("https://", "http://127.0.0.1:")):
        return "OSV_URL is no address of HTTPS"
    problems = ["no answer"]

    def ask() -> None:
        try:
            urllib.request.urlopen(service, data=b"{}", timeout=REACH_SECONDS).close()  # noqa: S310 - checked above
            problems.clear()
        except urllib.error.HTTPError:
            problems.clear()
        except OSError as problem:
            problems[:] = [str(getattr(problem, "reason", problem))]

    # A thread: nothing else bounds how long a name server may take.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(REACH_SECONDS)
    return "".join(problems)


if __name__ == "__main__":
    sys.exit(main(brief="--brief" in sys.argv[1:]))
