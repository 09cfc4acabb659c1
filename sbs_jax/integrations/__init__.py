"""What other trainers need to launch our experiments; nothing else imports it."""
