"""Addresses of the generation pages."""

from django.urls import path

from generation import views

app_name = "generation"

urlpatterns = [
    path("", views.studio, name="studio"),
    path("library/", views.library, name="library"),
    path("jobs/<int:pk>/cancel/", views.job_cancel, name="job-cancel"),
    path("jobs/<int:pk>/retry/", views.job_retry, name="job-retry"),
    path("jobs/<int:pk>/dismiss/", views.job_dismiss, name="job-dismiss"),
    path("takes/<int:pk>/favourite/", views.take_favourite, name="take-favourite"),
    path("takes/<int:pk>/rename/", views.take_rename, name="take-rename"),
    path("takes/<int:pk>/delete/", views.take_delete, name="take-delete"),
    path("takes/<int:pk>/restore/", views.take_restore, name="take-restore"),
]
