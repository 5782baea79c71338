"""Every address of the site."""

from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import include, path

from generation.api import api

admin.site.site_header = "MusicGen Studio"
admin.site.site_title = "MusicGen Studio"

urlpatterns = [
    path("", include("generation.urls")),
    path("", include("gated_configs.urls")),
    path("", include("registry.urls")),
    path("api/", api.urls),
    path("admin/", admin.site.urls),
    path("login/", LoginView.as_view(redirect_authenticated_user=True), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
]
