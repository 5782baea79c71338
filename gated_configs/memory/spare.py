"""A fork that is made before anyone asks: it has built a small model, so that what building writes to is its own.

Forking, and copying each page that is first written to, take longer than most configs do. It computes one config.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
from collections.abc import Callable
from typing import Any, Final, NoReturn

from gated_configs.memory.blueprint import import_modules
from gated_configs.memory.description import describe

#: Built for practice, and its modules are imported for it. Nothing of anybody's config is in the process afterwards.
_PRACTICE: Final[dict[str, Any]] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
}
#: Longer questions are not sent on: the socket would fill up while the spare is practising.
_LONGEST: Final = 64 * 1024


class Spare:
    """A fork that waits for one question. `pid` is its process."""

    def __init__(self, answer: Callable[[socket.socket, bytes], NoReturn], questions: socket.socket) -> None:
        import_modules(_PRACTICE)
        self._socket, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            # Held open here, it would keep whoever asks from noticing that the process is gone.
            questions.close()
            self._socket.close()
            _wait(theirs, answer)
        theirs.close()

    def take(self, connection: socket.socket, question: bytes) -> bool:
        """Hand a question over, to be answered once practising is done. False where it cannot be."""
        if len(question) > _LONGEST:
            return False
        try:
            sent = socket.send_fds(self._socket, [question], [connection.fileno()])
            self._socket.sendall(question[sent:])
        except OSError:
            return False
        self._socket.close()
        return True

    def end(self) -> None:
        """End it, where nothing was handed over."""
        self._socket.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _wait(parent: socket.socket, answer: Callable[[socket.socket, bytes], NoReturn]) -> NoReturn:
    """Practise, and answer the one question that comes; end when the process that forked this one does."""
    try:
        gc.disable()
        describe(_PRACTICE)
        question, descriptors, _, _ = socket.recv_fds(parent, _LONGEST, 1)
        while piece := parent.recv(_LONGEST):
            question += piece
        if descriptors:
            answer(socket.socket(fileno=descriptors[0]), question)
    finally:
        os._exit(0)
