"""What the sides serve: one app for every Python side, and its like for Node."""
