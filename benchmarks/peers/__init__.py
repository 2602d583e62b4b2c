"""Programs that run in an environment of a peer's own, and how they are driven from here."""
