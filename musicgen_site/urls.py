"""Every address of the site."""

from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import include, path

from generation.api import api
from musicgen_site.health import healthz, readyz
from musicgen_site.metrics import metrics

admin.site.site_header = "MusicGen Studio"
admin.site.site_title = "MusicGen Studio"

urlpatterns = [
    path("", include("generation.urls")),
    path("api/", api.urls),
    path("admin/", admin.site.urls),
    path("healthz", healthz, name="healthz"),
    path("readyz", readyz, name="readyz"),
    path("metrics", metrics, name="metrics"),
    path("login/", LoginView.as_view(redirect_authenticated_user=True), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
]
