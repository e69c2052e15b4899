"""What had to be written to compare with: a dispatcher in C, and a worker for it."""
