"""Being told: mail and webhooks for the events that a user picks, spooled on disk until they are delivered."""
