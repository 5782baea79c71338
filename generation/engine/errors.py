"""The one exception of the engine: a code for programs, a sentence for people, a detail for debugging."""


class EngineError(Exception):
    """Loading or a request failed; the codes are those of `generation.engine.protocol`."""

    def __init__(self, error_code: str, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.error_code = error_code
        self.message = message
        self.detail = detail
