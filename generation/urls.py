"""Addresses of the generation pages."""

from django.urls import path

from generation import clip_views, settings_views, views, webhook_views
from generation.adapter_pages import import_views as adapter_import_views
from generation.adapter_pages import views as adapter_views
from generation.inside import views as inside_views

app_name = "generation"

urlpatterns = [
    path("", views.studio, name="studio"),
    path("library/", views.library, name="library"),
    path("library/deleted/", views.deleted, name="deleted"),
    path("adapters/", adapter_views.adapters_list, name="adapters"),
    path("adapters/import/", adapter_import_views.adapter_import, name="adapter-import"),
    path("adapters/<int:pk>/", adapter_views.adapter_detail, name="adapter"),
    path("adapters/<int:pk>/edit/", adapter_views.adapter_edit, name="adapter-edit"),
    path("adapters/<int:pk>/delete/", adapter_views.adapter_delete, name="adapter-delete"),
    path("adapters/<int:pk>/switch/", adapter_views.adapter_switch, name="adapter-switch"),
    path("adapters/<int:pk>/try/", adapter_views.adapter_try, name="adapter-try"),
    path("adapters/<int:pk>/try/<int:trial_pk>/", adapter_views.adapter_trial, name="adapter-trial"),
    path("trials/<int:pk>/cancel/", adapter_views.trial_cancel, name="trial-cancel"),
    path("settings/", settings_views.settings_view, name="settings"),
    path("settings/switch/", settings_views.switch_start, name="switch-start"),
    path("settings/switch/cancel/", settings_views.switch_cancel, name="switch-cancel"),
    path("settings/switch/<str:model_id>/", settings_views.switch_plan, name="switch-plan"),
    path("settings/inside/", inside_views.inside, name="inside"),
    path("settings/free-memory/", settings_views.free_memory, name="free-memory"),
    path("settings/models/<str:model_id>/remove/", settings_views.model_remove, name="model-remove"),
    path("webhooks/", webhook_views.webhooks_page, name="webhooks"),
    path("webhooks/<int:pk>/delete/", webhook_views.webhook_delete, name="webhook-delete"),
    path("webhooks/<int:pk>/enable/", webhook_views.webhook_enable, name="webhook-enable"),
    path("webhooks/<int:pk>/test/", webhook_views.webhook_test, name="webhook-test"),
    path(
        "webhooks/<int:pk>/deliveries/<int:delivery_pk>/resend/",
        webhook_views.delivery_resend,
        name="delivery-resend",
    ),
    path("jobs/<int:pk>/cancel/", views.job_cancel, name="job-cancel"),
    path("jobs/<int:pk>/retry/", views.job_retry, name="job-retry"),
    path("jobs/<int:pk>/dismiss/", views.job_dismiss, name="job-dismiss"),
    path("clips/", clip_views.clip_upload, name="clip-upload"),
    path("clips/<int:pk>/remove/", clip_views.clip_remove, name="clip-remove"),
    path("takes/<int:pk>/favourite/", views.take_favourite, name="take-favourite"),
    path("takes/<int:pk>/rename/", views.take_rename, name="take-rename"),
    path("takes/<int:pk>/delete/", views.take_delete, name="take-delete"),
    path("takes/<int:pk>/restore/", views.take_restore, name="take-restore"),
]
