"""Serves static files under ASGI. Knows nothing of takes, which need an access check and ranges."""

from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from whitenoise.middleware import WhiteNoiseMiddleware

#: The files by how they are served. They are looked at once in a process: that takes longer than to answer a page, and
#: Django makes new middleware for each client of a test.
_found: dict[tuple[Any, ...], dict[str, Any]] = {}


class StaticFilesMiddleware(WhiteNoiseMiddleware):
    """WhiteNoise 6, able to stand in an asynchronous chain.

    The library's own is synchronous, which would put a thread under every request, and streams files by an
    iterator that Django under ASGI reads completely, with a warning. Ours are small and are read at once.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Any) -> None:
        super().__init__(get_response)
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def add_files_from_finders(self) -> None:
        """Note each file that is served, with its headers."""
        how = (self.static_prefix, self.max_age, self.allow_all_origins)
        if how not in _found:
            super().add_files_from_finders()
            _found[how] = dict(self.files)
        self.files.update(_found[how])

    def __call__(self, request: HttpRequest) -> Any:
        """Answer for a static file, or pass the request on."""
        find = self.find_file if self.autorefresh else self.files.get
        static_file = find(request.path_info)
        if static_file is None:
            return self.get_response(request)
        response = self.serve(static_file, request)
        return _awaitable(response) if iscoroutinefunction(self) else response

    @staticmethod
    def serve(static_file: Any, request: HttpRequest) -> HttpResponse:
        """The whole file, a range of it, or 304, as the request's headers ask."""
        answer = static_file.get_response(request.method, request.META)
        body = b""
        if answer.file is not None:
            with answer.file as opened:
                body = opened.read()
        response = HttpResponse(body, status=int(answer.status))
        del response["Content-Type"]
        for name, value in answer.headers:
            response[name] = value
        if answer.file is not None:
            # A file that was replaced since the start is of another length than the one noted then.
            response["Content-Length"] = str(len(body))
        return response


async def _awaitable(response: HttpResponseBase) -> HttpResponseBase:
    return response
