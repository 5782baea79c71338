"""The site's own rows, and who listens to what people do."""

from django.apps import AppConfig
from django.core import checks


class MusicgenSiteConfig(AppConfig):
    """Tokens, limits and the audit log of shared mode."""

    name = "musicgen_site"
    verbose_name = "People and access"

    def ready(self) -> None:
        """Begin to listen."""
        from musicgen_site.checks import check_media_packages
        from musicgen_site.services import audit, closed_accounts, open_pages

        audit.listen()
        closed_accounts.listen()
        open_pages.listen()
        checks.register(check_media_packages)
