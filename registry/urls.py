"""Addresses of the registry's own actions."""

from django.urls import path

from registry import views

app_name = "registry"

urlpatterns = [path("settings/models/add/", views.model_add, name="model-add")]
