"""RabbitMQ as broker, and results as messages (`rpc://`)."""
