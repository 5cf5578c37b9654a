"""Addresses of the project."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path
from orders import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("orders", views.orders),
    path("orders/<int:number>", views.order),
    path("orders/<int:number>/ship", views.ship),
    path("tasks/<str:task_id>", views.task),
]
