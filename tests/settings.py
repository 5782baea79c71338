"""The site's settings over a home of the tests' own. Nothing of the person's shell or studio gets in."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

for name in list(os.environ):
    if name.startswith("MUSICGEN_") and name not in {"MUSICGEN_TEST_DATABASE_URL", "MUSICGEN_TEST_HOME"}:
        del os.environ[name]
os.environ.pop("REDIS_URL", None)
os.environ.pop("DATABASE_URL", None)
if "MUSICGEN_TEST_DATABASE_URL" in os.environ:
    os.environ["DATABASE_URL"] = os.environ["MUSICGEN_TEST_DATABASE_URL"]
if "MUSICGEN_TEST_HOME" not in os.environ:
    # Kept in the environment: mypy's plugin and subprocesses may import this module again.
    os.environ["MUSICGEN_TEST_HOME"] = tempfile.mkdtemp(prefix="musicgen-tests-")
    atexit.register(shutil.rmtree, os.environ["MUSICGEN_TEST_HOME"], ignore_errors=True)
# Tests that run side by side share nothing.
home = Path(os.environ["MUSICGEN_TEST_HOME"]) / os.environ.get("PYTEST_XDIST_WORKER", "")
home.mkdir(parents=True, exist_ok=True)
if "PYTEST_XDIST_WORKER" in os.environ and not (home / "engine").is_symlink():
    # But for what is compiled and measured once for a processor.
    (home.parent / "engine").mkdir(mode=0o700, exist_ok=True)
    (home / "engine").symlink_to("../engine")
os.environ["MUSICGEN_HOME"] = str(home)
# A process of its own with torch in it, for whichever engine a test starts.
os.environ["MUSICGEN_SPARE_RUNNER"] = "false"
# No test reaches the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = str(home / "hub")

from musicgen_site.settings import *  # noqa: E402, F403

SECRET_KEY = "tests-only-tests-only-tests-only-tests-only"
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]", "testserver"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
TIME_ZONE = "UTC"
