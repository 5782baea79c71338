"""Addresses of the memory pages."""

from django.urls import path

from gated_configs.pages import config_views, views

app_name = "memory"

urlpatterns = [
    path("memory/", views.memory_page, name="page"),
    path("memory/config/", config_views.config_submit, name="config"),
    path("memory/config/retire/", config_views.config_retire, name="config-retire"),
    path("memory/config/<int:pk>/restore/", config_views.config_restore, name="config-restore"),
]
