"""Curate configs: what people saved, with its versions, and what the hub answered."""

from gated_configs.admin.hub_configs import HubConfigAdmin
from gated_configs.admin.saved_configs import UserModelConfigAdmin, register_config_action
from gated_configs.admin.versions import ConfigVersionAdmin

__all__ = ["ConfigVersionAdmin", "HubConfigAdmin", "UserModelConfigAdmin", "register_config_action"]
