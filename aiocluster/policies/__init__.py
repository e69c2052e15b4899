"""Which worker gets the next connection. A policy chooses; it owns nothing."""
