"""Rows of configs: what people saved, its versions, and what the hub answered; and limits of any kind."""

from gated_configs.models.hub_config import HubConfig
from gated_configs.models.rate_limit import RateLimit
from gated_configs.models.saved_config import ConfigVersion, UserModelConfig, UserModelConfigQuerySet

__all__ = ["ConfigVersion", "HubConfig", "RateLimit", "UserModelConfig", "UserModelConfigQuerySet"]
