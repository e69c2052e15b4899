"""What tests share: programs in their own process, and fakes."""
