"""Addresses of the registry's pages."""

from django.urls import path

from registry import views

app_name = "registry"

urlpatterns = [path("settings/", views.settings_page, name="settings")]
