"""Where the foreground of an image lies, and crops that keep it."""
