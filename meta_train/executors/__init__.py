"""Where slots are advanced."""
