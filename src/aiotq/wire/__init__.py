"""One call as bytes: the message, content types, tags, compression, signing, Celery's protocol."""
