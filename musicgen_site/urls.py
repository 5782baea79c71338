"""Every address of the site."""

from django.contrib import admin
from django.urls import include, path

from generation.api import api
from musicgen_site.health import healthz, readyz
from musicgen_site.metrics import metrics
from musicgen_site.views import account, login, reset
from musicgen_site.views.access import shared_mode_only

admin.site.site_header = "MusicGen Studio"
admin.site.site_title = "MusicGen Studio"

handler500 = "musicgen_site.database_away.server_error"

urlpatterns = [
    path("", include("generation.urls")),
    path("", include("gated_configs.urls")),
    path("", include("registry.urls")),
    path("api/", api.urls),
    # One door for all: the admin's own would pass the login's guard by.
    path("admin/login/", login.admin_login),
    path("admin/logout/", login.StudioLogout.as_view()),
    path("admin/", admin.site.urls),
    path("healthz", healthz, name="healthz"),
    path("readyz", readyz, name="readyz"),
    path("metrics", metrics, name="metrics"),
    path("login/", login.StudioLogin.as_view(), name="login"),
    path("logout/", login.StudioLogout.as_view(), name="logout"),
    path("setup/<str:secret>/", login.first_administrator, name="setup"),
    path("account/", account.account, name="account"),
    path("account/tokens/", account.token_create, name="account-token-create"),
    path("account/tokens/<int:pk>/revoke/", account.token_revoke, name="account-token-revoke"),
    path("account/password/", shared_mode_only(account.PasswordPage.as_view()), name="account-password"),
    path("password/", reset.with_mail(reset.ResetPage.as_view()), name="password_reset"),
    path("password/sent/", reset.with_mail(reset.SentPage.as_view()), name="password_reset_done"),
    path(
        "password/<uidb64>/<token>/",
        reset.with_mail(reset.NewPasswordPage.as_view()),
        name="password_reset_confirm",
    ),
    path("password/changed/", reset.with_mail(reset.ChangedPage.as_view()), name="password_reset_complete"),
]
