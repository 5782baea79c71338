"""Where the files of takes and adapters lie on this machine, for tests that look at them or harm them."""

from pathlib import Path

from adapters.models import Adapter
from adapters.models.adapter import weights_name
from generation.models import Take
from registry.media import takes_media, weights_media


def take_file(take: Take) -> Path:
    """The take's audio. Raises NotImplementedError where takes are kept in a bucket."""
    return Path(takes_media().path(take.file_name))


def weights_file(adapter: Adapter) -> Path:
    """The adapter's weights. Raises NotImplementedError where they are kept in a bucket."""
    return Path(weights_media().path(weights_name(adapter.weights_sha256)))
