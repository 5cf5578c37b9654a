"""The Django application: `INSTALLED_APPS += ["aiotq.contrib.django"]`.

It has `manage.py aiotq`, results in the ORM (`django-db`) with admin pages, a backend for `django.tasks`, and helpers
for tests. Tasks work in a Django project without it too (see `core.django_project`).
"""
