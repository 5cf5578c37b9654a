"""Other frameworks: each in a folder of its own, which nobody else imports."""
