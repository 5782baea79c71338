"""The site: settings, access control, URLs and the ASGI application. No other app imports it."""
