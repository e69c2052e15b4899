"""What Node's own cluster tests check, shown here in our words. Each test names its row."""
