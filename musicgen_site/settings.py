"""Django settings, derived from StudioSettings. Must stay quick to import and write nothing."""

import os
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

import dj_database_url
from django.core.exceptions import ImproperlyConfigured
from django.utils.functional import SimpleLazyObject

from musicgen_site.email_server import parse_email_url
from musicgen_site.media_address import media_storages
from musicgen_site.studio_settings import BASE_DIR, load_studio_settings, read_or_create_secret_key

STUDIO = load_studio_settings()

DEBUG = STUDIO.debug
# Read, and on first use created, only when something is signed: `manage.py --help` leaves no trace.
SECRET_KEY: str = STUDIO.secret_key or cast(
    str, SimpleLazyObject(lambda: read_or_create_secret_key(STUDIO.secret_key_path))
)

LOOPBACK_HOSTS = ["localhost", "127.0.0.1", "[::1]"]
# In local mode nobody logs in, so a name that an attacker points at 127.0.0.1 must not be answered.
ALLOWED_HOSTS = LOOPBACK_HOSTS if STUDIO.access == "local" else [*LOOPBACK_HOSTS, *STUDIO.allowed_hosts]

INSTALLED_APPS = [
    # Ours first, so that our commands and templates win.
    "gated_configs",
    "registry",
    "adapters",
    "generation",
    "musicgen_site",
    "ninja",
    "django_htmx",
    "channels",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]

MIDDLEWARE = [
    "musicgen_site.security.SecurityHeadersMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "musicgen_site.static_files.StaticFilesMiddleware",
    "musicgen_site.security.ApiErrorMiddleware",
    "musicgen_site.security.CrossSiteMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "musicgen_site.request_in_hand.RequestInHandMiddleware",
    "musicgen_site.token_access.TokenMiddleware",
    (
        "musicgen_site.access.OwnerMiddleware"
        if STUDIO.access == "local"
        else "musicgen_site.access.LoginMiddleware"
    ),
    "musicgen_site.request_limits.RequestLimitsMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]

ROOT_URLCONF = "musicgen_site.urls"
ASGI_APPLICATION = "musicgen_site.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "generation.context.studio",
            ],
        },
    },
]


def _databases() -> dict[str, Any]:
    if STUDIO.database_url is None:
        database: dict[str, Any] = {"ENGINE": "musicgen_site.sqlite", "NAME": STUDIO.database_path}
    else:
        try:
            database = dict(dj_database_url.parse(STUDIO.database_url))
        except ValueError as error:
            raise ImproperlyConfigured(
                "DATABASE_URL is not understood. It looks like postgres://user:password@host:5432/name. "
                "In the password write / as %2F, @ as %40 and # as %23."
            ) from error
    if "sqlite" in database["ENGINE"]:
        database["ENGINE"] = "musicgen_site.sqlite"
        database["OPTIONS"] = {
            "transaction_mode": "IMMEDIATE",
            "timeout": 5,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        }
        # To open the file costs four times what a question does, and the engine asks some every second.
        database["CONN_MAX_AGE"] = 60
        # An in-memory test database cannot be seen by a live server's threads.
        database["TEST"] = {"NAME": STUDIO.home / "test.sqlite3"}
    elif "postgresql" in database["ENGINE"]:
        # By itself a driver waits for two minutes for a machine that is gone, and every page with it.
        database["OPTIONS"] = {"connect_timeout": 5, **database.get("OPTIONS", {})}
    return {"default": database}


DATABASES = _databases()
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# One ear hears for all pages of a process, and nothing may be lost while it is busy.
_CAPACITY = 10_000
CHANNEL_LAYERS: dict[str, dict[str, Any]] = {
    "default": (
        {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"capacity": _CAPACITY}}
        if STUDIO.redis_url is None
        else {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            # A receiver waits for 5 seconds at a time, which is also how long redis-py 8 waits for any answer: without
            # a longer bound each quiet moment would look like a dead Redis.
            "CONFIG": {
                "hosts": [
                    {"address": STUDIO.redis_url, "socket_timeout": 15.0, "socket_connect_timeout": 3.0}
                ],
                "prefix": "musicgen",
                "channel_capacity": {"pages*": _CAPACITY},
            },
        }
    )
}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
# Links of mails, for a day.
PASSWORD_RESET_TIMEOUT = 24 * 3600
LOGIN_URL = "/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/login/"

# A name of our own: cookies of all ports of one host share a jar.
SESSION_COOKIE_NAME = "musicgen_session"
CSRF_COOKIE_NAME = "musicgen_csrf"
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = round(3600 * STUDIO.session_hours)
# A proxy in front may speak HTTPS for us; the browser then sends an https origin for these names.
CSRF_TRUSTED_ORIGINS = [f"https://{name}" for name in STUDIO.allowed_hosts if name != "*"]

# BoundedBodies stands in front with bounds by address; the largest form is a pasted config of 4 MB.
DATA_UPLOAD_MAX_MEMORY_SIZE = 6 * 1024 * 1024

if STUDIO.access == "shared" and STUDIO.behind_https_proxy:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = True
    # Whoever probes the studio speaks HTTP to it directly.
    SECURE_REDIRECT_EXEMPT = [r"^(healthz|readyz|metrics)$"]
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
    # Browsers take such a name from this very host over HTTPS alone: no neighbour below the same domain can plant one.
    SESSION_COOKIE_NAME = f"__Host-{SESSION_COOKIE_NAME}"
    CSRF_COOKIE_NAME = f"__Host-{CSRF_COOKIE_NAME}"
    SECURE_HSTS_SECONDS = 365 * 24 * 3600
    # For this name only: whoever runs the studio need not have the whole domain.
    SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]

# Mails for new passwords; without an address of a server none is sent, and no page offers one.
_email_server = parse_email_url(STUDIO.email_url)
EMAIL_BACKEND = f"django.core.mail.backends.{_email_server.backend}.EmailBackend"
EMAIL_HOST, EMAIL_PORT = _email_server.host, _email_server.port
EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = _email_server.user, _email_server.password
EMAIL_USE_TLS, EMAIL_USE_SSL = _email_server.use_tls, _email_server.use_ssl
EMAIL_TIMEOUT = 20
DEFAULT_FROM_EMAIL = SERVER_EMAIL = STUDIO.email_from

X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "media-src": ["'self'", "blob:"],
        "connect-src": ["'self'"],
        "object-src": ["'none'"],
        "base-uri": ["'none'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
    }
}

STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    **media_storages(STUDIO.media_url),
}

STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
# Static files are found at start, so nobody has to run collectstatic.
WHITENOISE_USE_FINDERS = True
WHITENOISE_ALLOW_ALL_ORIGINS = False

# Of the page with tracebacks, for developers: it shows settings and variables.
DEFAULT_EXCEPTION_REPORTER_FILTER = "musicgen_site.log_format.SecretsHidden"

LANGUAGE_CODE = "en-gb"
USE_I18N = False
USE_TZ = True


def _system_time_zone() -> str:
    """The machine's zone by name, so that takes show the user's own time; UTC when it cannot be told."""
    candidates = [os.environ.get("TZ", "").lstrip(":")]
    localtime = Path("/etc/localtime")
    if localtime.is_symlink():
        candidates.append(str(localtime.resolve()).partition("zoneinfo/")[2])
    for name in candidates:
        try:
            ZoneInfo(name)
        except (ValueError, OSError):
            continue
        except KeyError:  # ZoneInfoNotFoundError
            continue
        return name
    return "UTC"


TIME_ZONE = _system_time_zone()

_LOG_LEVEL = (STUDIO.log_level or "info").upper()
#: Lines for each request and each job. A person at a laptop asked for none of them.
_EACH_LEVEL = _LOG_LEVEL if STUDIO.log_format == "json" or STUDIO.log_level else "WARNING"
_LIBRARY_LEVEL = "ERROR" if _LOG_LEVEL == "ERROR" else "WARNING"

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "text": {"()": "musicgen_site.log_format.TextFormatter"},
        "json": {"()": "musicgen_site.log_format.JsonFormatter"},
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": STUDIO.log_format}},
    "root": {"handlers": ["console"], "level": _LIBRARY_LEVEL},
    "loggers": {
        **{
            app: {"level": _LOG_LEVEL}
            for app in ("gated_configs", "registry", "adapters", "generation", "musicgen_site")
        },
        "musicgen_site.access": {"level": _EACH_LEVEL},
        "generation.job_log": {"level": _EACH_LEVEL},
        # Django's own set-up mails administrators and stays silent on the console.
        "django": {"handlers": ["console"], "level": _LIBRARY_LEVEL, "propagate": False},
        # Refused forms answer 400 every day; only failures of ours are worth a line.
        "django.request": {"level": "ERROR"},
    },
}
