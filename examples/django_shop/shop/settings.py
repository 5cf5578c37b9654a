"""Settings of the project."""

from __future__ import annotations

import os
from pathlib import Path

#: Where files are kept.
DATA = Path(os.environ.get("SHOP_DATA", Path(__file__).parents[1]))

SECRET_KEY = os.environ.get("SHOP_SECRET_KEY", "an example has no secrets")
DEBUG = False
ALLOWED_HOSTS = ["*"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "aiotq.contrib.django",
    "orders",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
ROOT_URLCONF = "shop.urls"
WSGI_APPLICATION = "shop.wsgi.application"
ASGI_APPLICATION = "shop.asgi.application"
STATIC_URL = "static/"

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DATA / "shop.sqlite3",
        "OPTIONS": {"timeout": 20},
    }
}

# Messages in a file of their own (redis://, amqp:// and postgresql:// in production); results in the database above.
AIOTQ_BROKER_URL = f"sqlite:///{DATA}/queue.sqlite3"
AIOTQ_RESULT_BACKEND = "django-db"
AIOTQ_TASK_TRACK_STARTED = True
