"""The ASGI application: pages and API, the socket, and the engine's channel."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "musicgen_site.settings")

from django.core.asgi import get_asgi_application

# Before anything that needs loaded apps.
django_application = get_asgi_application()

from channels.routing import ProtocolTypeRouter  # noqa: E402

from generation import routing  # noqa: E402
from generation.open_sockets import counted  # noqa: E402
from musicgen_site.access import socket_access  # noqa: E402
from musicgen_site.request_bounds import BoundedBodies  # noqa: E402
from musicgen_site.request_log import RequestLog  # noqa: E402

application = RequestLog(
    ProtocolTypeRouter(
        {
            "http": BoundedBodies(django_application),
            "websocket": counted(socket_access(routing.websocket)),
            "channel": routing.channel,
        }
    )
)
