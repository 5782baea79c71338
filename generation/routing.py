"""Socket addresses and channel names of generation."""

from channels.routing import ChannelNameRouter, URLRouter
from django.urls import path

from generation.consumers import EngineConsumer, StudioConsumer
from registry.events import ENGINE_CHANNEL

websocket = URLRouter([path("ws/studio/", StudioConsumer.as_asgi())])
channel = ChannelNameRouter({ENGINE_CHANNEL: EngineConsumer.as_asgi()})
